"""Keep what two experts like: the encoder's eye and the question."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from ...options.checks import Range
from ...values.selection import Selection
from ...values.source import Source
from ...values.tokens import VisualTokens
from ..base import Evidence, Method
from ..operations.scaling import z_score
from ..operations.signals import SALIENCY, TEXT, saliency, text_relevance


@dataclass(frozen=True)
class TwoExpert(Method, name="two-expert"):
    """Keep the tokens of highest ``z(saliency) + text_weight * z(text relevance)``.

    Both scores are brought to mean zero and deviation one within an item.

    Parameters
    ----------
    text_weight : float
        Weight of the text's expert; 0 leaves saliency alone.

    Notes
    -----
    The weights of the original's two experts, and its fusion before them, are not reproduced.
    Evidence: CLS attention or attention received; CLIP text or the prompt's own embeddings.
    """

    source = Source(
        "LLaVA-Meteor", arxiv="2505.11945", note="a training-free version of the trained original"
    )
    text_weight: Annotated[float, Range(0.0)] = 1.0

    @property
    def evidence(self) -> Evidence:
        return (SALIENCY, TEXT, ("visual_projected", "features"))

    def choose(self, tokens: VisualTokens, keep: int) -> Selection:
        seen, notes = saliency(tokens)
        asked, more = text_relevance(tokens)
        scores = z_score(seen) + self.text_weight * z_score(asked)
        return Selection.top(scores, keep, notes + more)
