"""SCoRe: weighted k-centre, the salient token that is farthest from those kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch

from ...options.checks import Range
from ...values.selection import Selection
from ...values.source import Source
from ...values.tokens import VisualTokens
from ..base import Evidence, Method
from ..operations.greedy import k_centre
from ..operations.signals import ENCODER, SALIENCY, encoder_features, saliency


@dataclass(frozen=True)
class SCoRe(Method, name="score"):
    """Keep, one after the other, the token whose saliency times distance to the kept is largest.

    The distance of a token is one minus its cosine with the nearest kept token, in the features of
    the encoder. The first token is the most salient one. `Scope` weighs instead what a token adds
    to the coverage of all tokens.

    Parameters
    ----------
    alpha : float
        Exponent of the saliency, at least 0; at 0 only distances count, after the first token.

    Notes
    -----
    Evidence: encoder features; CLS attention, or the attention received.
    No code was published. Chosen here: saliency is the attention, alpha is 1, the distance is that
    of the cosine.
    """

    source = Source(
        "SCoRe",
        venue="CVPR 2026",
        note="poster 39155, without an arXiv identifier; from descriptions of it, no code was "
        "published",
    )
    alpha: Annotated[float, Range(0.0)] = 1.0

    @property
    def evidence(self) -> Evidence:
        return (ENCODER, SALIENCY)

    def choose(self, tokens: VisualTokens, keep: int) -> Selection:
        x, notes = encoder_features(tokens)
        attention, more = saliency(tokens)
        weight = attention.clamp_min(0.0) ** self.alpha
        first = attention.argmax(dim=1, keepdim=True)
        if keep > 1:
            rest = k_centre(x, keep - 1, first, weight)
            first = torch.cat([first, rest], dim=1)
        return Selection(first, notes=notes + more)
