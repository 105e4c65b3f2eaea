"""Keep salient tokens, each lowering those like it."""

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
    """Keep, one after the other, the most important token; each lowers those that resemble it.

    Importance runs from 0 to 1 within an item. A kept token of importance ``s`` takes
    ``exp(-gamma (1 - cos)^2) s`` from every other (soft non-maximum suppression).

    Parameters
    ----------
    gamma : float
        Higher lowers only the more similar tokens.

    Notes
    -----
    Evidence: encoder features; CLS attention, or attention received from encoders without CLS
    (where the paper takes attention of an early layer of the language model).
    Differs: once no importance is left above zero, tokens follow by how little of them was taken; a
    third party's port stops all at zero, where the first in raster order follow.
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
