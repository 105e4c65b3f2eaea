"""LLaVA-Meteor's selection without training: visual saliency plus relevance to the text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from ...options.checks import Range
from ...values.selection import Selection
from ...values.source import Source
from ...values.tokens import VisualTokens
from ..base import Evidence, Method
from ..operations.scaling import z_score
from ..operations.signals import SALIENCY, TEXT, TextSign, saliency, text_relevance


@dataclass(frozen=True)
class TwoExpert(Method, name="two-expert"):
    """Keep the tokens with the highest ``z(saliency) + text_weight * z(text relevance)``.

    ``z`` scales a score to mean zero and standard deviation one within each item.

    Parameters
    ----------
    text_weight : float
        Weight of the relevance to the text; at 0 only saliency counts.
    text_sign : {"published", "positive", "negative"}
        Whether tokens near the text count as relevant or those far from it; as published, those far
        from it in CLIP, and those near it without CLIP.

    Notes
    -----
    The weights of the original's two experts, and its fusion before them, are not reproduced.
    Evidence: CLS attention, or the attention received; CLIP's text, or the prompt's own embeddings.
    """

    source = Source(
        "LLaVA-Meteor", arxiv="2505.11945", note="a training-free version of the trained original"
    )
    text_weight: Annotated[float, Range(0.0)] = 1.0
    text_sign: TextSign = "published"

    @property
    def evidence(self) -> Evidence:
        return (SALIENCY, TEXT, ("visual_projected", "features"))

    def choose(self, tokens: VisualTokens, keep: int) -> Selection:
        seen, notes = saliency(tokens)
        relevance, more = text_relevance(tokens, self.text_sign)
        scores = z_score(seen) + self.text_weight * z_score(relevance)
        return Selection.top(scores, keep, notes + more)
