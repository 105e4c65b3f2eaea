"""LLaVA-Meteor's selection by two experts: visual saliency plus relevance to the text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from ...options.checks import Range
from ...values.selection import Selection
from ...values.source import Source
from ...values.tokens import VisualTokens
from ..base import Evidence
from ..operations.fitted import Fittable, Fitted
from ..operations.learned_scores import ExpertScores
from ..operations.scaling import z_score
from ..operations.signals import SALIENCY, TEXT, TextSign, saliency, text_relevance


@dataclass(frozen=True)
class TwoExpert(Fittable, name="two-expert"):
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
    With ``fitted``, both experts are learned (`ExpertScores`) and the options above have no effect.
    The weights of the original's experts, and its fusion before them, are not reproduced.
    Evidence: CLS attention, or the attention received; CLIP's text, or the prompt's own embeddings.
    """

    fits: ClassVar[type[Fitted]] = ExpertScores
    source = Source(
        "LLaVA-Meteor", arxiv="2505.11945", note="a training-free version of the trained original"
    )
    text_weight: Annotated[float, Range(0.0)] = 1.0
    text_sign: TextSign = "published"

    @property
    def rule_evidence(self) -> Evidence:
        return (SALIENCY, TEXT, ("visual_projected", "features"))

    def choose_by_rule(self, tokens: VisualTokens, keep: int) -> Selection:
        seen, notes = saliency(tokens)
        relevance, more = text_relevance(tokens, self.text_sign)
        scores = z_score(seen) + self.text_weight * z_score(relevance)
        return Selection.top(scores, keep, notes + more)
