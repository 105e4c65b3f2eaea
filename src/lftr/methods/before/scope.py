"""SCOPE: greedy coverage weighted by saliency."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from ...options.checks import Range
from ...values.selection import Selection
from ...values.source import Source
from ...values.tokens import VisualTokens
from ..base import Evidence, Method
from ..operations.coverage import facility_location
from ..operations.signals import ENCODER, SALIENCY, encoder_features, saliency


@dataclass(frozen=True)
class Scope(Method, name="scope"):
    """Keep, one after the other, the token that adds most to the coverage of all tokens.

    A token is covered as well as its most similar kept token resembles it, by the cosine of encoder
    features. What a candidate adds to the coverage of all tokens is multiplied by its saliency.

    Parameters
    ----------
    alpha : float
        Exponent of the saliency; at 0 only coverage counts.
    combined : {"multi", "add"}
        Whether the added coverage is multiplied by the saliency, or the saliency is added to it.

    Notes
    -----
    Evidence: encoder features, and CLS attention, summed over heads as in the original. Without any
    attention all tokens are equally salient, as in the original.
    """

    source = Source(
        "SCOPE",
        arxiv="2510.24214",
        venue="NeurIPS 2025",
        algorithm="1",
        code="https://github.com/kinredon/SCOPE",
        function="SCOPE",
    )
    alpha: Annotated[float, Range(0.0)] = 1.0
    combined: Literal["multi", "add"] = "multi"

    @property
    def evidence(self) -> Evidence:
        return (ENCODER, SALIENCY)

    def choose(self, tokens: VisualTokens, keep: int) -> Selection:
        x, notes = encoder_features(tokens)
        if all(getattr(tokens, name) is None for name in SALIENCY):
            notes += ("without attention, all tokens counted as equally salient",)
            return Selection(facility_location(x, keep), notes=notes)
        scores, stood_in = saliency(tokens)
        heads = 1 if tokens.cls_attention is None else tokens.cls_attention.shape[1]
        scores = (scores * heads).clamp_min(0.0) ** self.alpha
        weight, bonus = (scores, None) if self.combined == "multi" else (None, scores)
        return Selection(
            facility_location(x, keep, weight=weight, bonus=bonus), notes=notes + stood_in
        )
