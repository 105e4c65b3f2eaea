"""VisionZip: the tokens that the encoder attends to, and a few merged from the rest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch

from ...options.checks import Range
from ...values.indexing import take
from ...values.selection import Flow, Selection
from ...values.source import Source
from ...values.tokens import VisualTokens
from ..base import Evidence, Method
from ..operations.flows import mean_flow, nearest
from ..operations.signals import KEYS, SALIENCY, keys, saliency


@dataclass(frozen=True)
class VisionZip(Method, name="visionzip"):
    """Keep the most attended tokens; merge the others into a few of their own at equal steps.

    Of ``keep`` slots, ``round(keep * contextual)`` are contextual: every n-th of the tokens that
    are not dominant is a target; the others flow into the target whose key is nearest by cosine.

    Parameters
    ----------
    contextual : float
        Share of the slots that merge, in [0, 1]; as published 10 of 64.
    official_sum : bool
        Whether a contextual slot is its target *plus* the mean of what flows into it, as in the
        original's code, which about doubles its length; by default it is the mean of all.

    Notes
    -----
    Evidence: CLS attention, or attention received; keys, or features.
    Differs: ``keep`` counts dominant and contextual patches; the CLS token, which the original
    hands on too and no LLaVA was trained on, is left out. Slots are in raster order (the original
    puts contextual ones last).
    """

    source = Source(
        "VisionZip",
        arxiv="2412.04467",
        venue="CVPR 2025",
        section="3",
        code="https://github.com/dvlab-research/VisionZip",
        function="CLIPVisionTower_VisionZip.forward",
    )
    contextual: Annotated[float, Range(0.0, 1.0)] = 10 / 64
    official_sum: bool = False

    @property
    def evidence(self) -> Evidence:
        return (SALIENCY, KEYS)

    def choose(self, tokens: VisualTokens, keep: int) -> Selection:
        attention, notes = saliency(tokens)
        contextual = round(keep * self.contextual)
        if contextual == 0:
            return Selection.top(attention, keep, notes)
        compared, more = keys(tokens)
        dominant = keep - contextual
        order = attention.argsort(dim=1, descending=True, stable=True)
        kept, rest = order[:, :dominant].sort().values, order[:, dominant:].sort().values
        step = rest.shape[1] // contextual
        target = torch.arange(contextual, device=rest.device).expand(len(rest), -1) * step
        index = torch.cat([kept, rest.gather(1, target)], dim=1)
        slot = torch.empty_like(order)
        slot.scatter_(1, kept, torch.arange(dominant, device=kept.device).expand_as(kept))
        slot.scatter_(1, rest, dominant + nearest(take(compared, rest, 1), target)[0])
        flow = mean_flow(slot, keep)
        if self.official_sum:  # of n that share a slot, all but the target weigh 1 / (n - 1)
            weight = (flow.weight / (1.0 - flow.weight)).scatter(1, index, 1.0)
            flow = Flow(flow.source, flow.slot, weight)
        return Selection(index, flow, notes + more)
