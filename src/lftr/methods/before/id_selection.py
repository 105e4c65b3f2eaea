"""ID-Selection: greedy choice by importance, which falls for tokens similar to a chosen one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from ...options.checks import Range
from ...values.selection import Selection
from ...values.source import Source
from ...values.tokens import VisualTokens
from ..base import Evidence, Method
from ..operations.greedy import soft_nms
from ..operations.scaling import min_max
from ..operations.signals import ENCODER, SALIENCY, encoder_features, saliency


@dataclass(frozen=True)
class IDSelection(Method, name="id-selection"):
    """Keep the most important token, lower the importance of similar ones, and repeat.

    Importance is scaled to [0, 1] within each item. When a token of importance ``s`` is kept, every
    other token loses ``exp(-gamma (1 - cos)^2) s`` (soft non-maximum suppression).

    Parameters
    ----------
    gamma : float
        The larger, the fewer tokens count as similar.

    Notes
    -----
    Evidence: encoder features; CLS attention or, for encoders without a CLS token, the attention
    received (in the paper, attention of an early layer of the language model).
    Differs from the original: when no importance is left above zero, the tokens that lost least
    follow (in a third party's port importance stops at zero, so the first in raster order follow).
    """

    source = Source(
        "ID-Selection",
        arxiv="2604.05601",
        section="3",
        note="no official code; this follows descriptions of it",
    )
    gamma: Annotated[float, Range(0.0)] = 20.0

    @property
    def evidence(self) -> Evidence:
        return (ENCODER, SALIENCY)

    def choose(self, tokens: VisualTokens, keep: int) -> Selection:
        x, notes = encoder_features(tokens)
        scores, more = saliency(tokens)
        picks = soft_nms(x, min_max(scores), keep, float(self.gamma))
        return Selection(picks, notes=notes + more)
