"""VisionZip: the most attended tokens, and a few merged from the rest."""

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
    """Keep the most attended tokens, and merge the others into a few evenly spaced ones of them.

    Of ``keep`` slots, ``round(keep * contextual)`` are contextual, the others dominant. Dominant
    tokens are those with the most attention. Of the remaining tokens, every n-th is a target; the
    others are merged into the target whose key is nearest by cosine.

    Parameters
    ----------
    contextual : float
        Share of contextual slots, in [0, 1]; 10 of 64 as published.
    official_sum : bool
        Whether a contextual slot is its target *plus* the mean of the tokens merged into it, as in
        the original program, which about doubles its norm. By default it is the mean of all of
        them.

    Notes
    -----
    Evidence: CLS attention, or the attention received; keys, or features.
    Differs from the original: ``keep`` counts dominant and contextual patches. The CLS token, which
    the original also passes on although LLaVA was not trained on it, is left out. Slots are in
    raster order (there contextual ones come last).
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
