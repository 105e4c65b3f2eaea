"""VisPruner: the most attended tokens, and a diverse part of the rest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch

from ...options.checks import Range
from ...values.selection import Selection
from ...values.source import Source
from ...values.tokens import VisualTokens
from ..base import Evidence, Method
from ..operations.signals import ENCODER, SALIENCY, encoder_features, saliency
from ..operations.thinning import thin


@dataclass(frozen=True)
class VisPruner(Method, name="vispruner"):
    """Keep part of the tokens by attention, and remove near-duplicates from the rest.

    The rest, in order of attention, is divided into even and odd places. The ``step`` tokens at
    even places that are most similar to one at an odd place are removed. This is repeated until the
    budget is met. Similarity is the cosine of encoder features.

    Parameters
    ----------
    important_ratio : float
        Share of the budget that is chosen by attention, in [0, 1].
    step : int
        Number of tokens removed in each round, at least 1.

    Notes
    -----
    Evidence: CLS attention, or the attention received; encoder features.
    Differs from the original: a rest of odd length or of fewer than 16 tokens is allowed (there it
    raises).
    """

    source = Source(
        "VisPruner",
        arxiv="2412.01818v2",
        venue="ICCV 2025",
        section="3",
        code="https://github.com/Theia-4869/VisPruner",
        function="LlavaMetaForCausalLM.encode_images",
    )
    important_ratio: Annotated[float, Range(0.0, 1.0)] = 0.5
    step: Annotated[int, Range(1)] = 8

    @property
    def evidence(self) -> Evidence:
        return (SALIENCY, ENCODER)

    def choose(self, tokens: VisualTokens, keep: int) -> Selection:
        scores, notes = saliency(tokens)
        order = scores.argsort(dim=1, descending=True, stable=True)
        important = int(keep * self.important_ratio)
        if important == keep:
            return Selection(order[:, :keep], notes=notes)
        x, more = encoder_features(tokens)
        diverse = thin(x, order[:, important:], keep - important, self.step)
        index = torch.cat([order[:, :important], diverse], dim=1)
        return Selection(index, notes=notes + more)
