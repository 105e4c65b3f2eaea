"""Average pooling at several scales at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from ...options.checks import Range
from ...values.budget import share
from ...values.selection import Flow, Selection
from ...values.source import Source
from ...values.tokens import VisualTokens
from ..base import Method
from ..operations.cells import cells
from ..operations.flows import mean_flow


@dataclass(frozen=True)
class MultiScalePool(Method, name="multi-scale-pool"):
    """Average the tokens of a fine grid of cells and of coarser grids over the same image.

    ``keep`` is divided among the scales; each scale has ``1 / factor`` as many cells as the one
    before: 320 slots are 16 x 16 and 8 x 8 cells. Every token is part of one cell of each scale.
    The anchor of a slot is the token in the middle of its cell, or the next one that is not an
    anchor yet. Slots are in the order of their anchors.

    Parameters
    ----------
    scales : int
        Number of scales; 2 as published.
    factor : float
        How many times fewer cells each further scale has, at least 1; 4 as published.

    Notes
    -----
    Differs from the original: any count can be kept; there it is fixed to 16 x 16 and 8 x 8, one
    grid after the other.
    """

    source = Source("ADEM-VL", arxiv="2410.17779", note="its multi-scale visual tokens")
    scales: Annotated[int, Range(1)] = 2
    factor: Annotated[float, Range(1.0)] = 4.0

    def choose(self, tokens: VisualTokens, keep: int) -> Selection:
        scales = min(self.scales, keep)
        counts = share(keep, [self.factor**-i for i in range(scales)], [keep] * scales)
        grids = [cells(tokens.blocks, count) for count in counts]
        wish = torch.cat([anchor for _, anchor in grids])
        order = wish.argsort(stable=True)
        rank, first = order.argsort(), 0
        flows = []
        for (cell, _), count in zip(grids, counts, strict=True):
            flow = mean_flow(cell.unsqueeze(0), count)
            flows.append((flow.source, rank[flow.slot + first], flow.weight))
            first += count
        parts = (torch.cat(part, dim=1) for part in zip(*flows, strict=True))
        batch, device = len(tokens.features), tokens.features.device
        flow = Flow(*(part.to(device).expand(batch, -1) for part in parts))
        return Selection(_distinct(wish[order], tokens.count).to(device).expand(batch, -1), flow)


def _distinct(wish: Tensor, total: int) -> Tensor:
    """Return distinct tokens near those that are wished for ``(K,)``, ascending like them."""
    place = torch.arange(len(wish))
    pushed = (wish - place).cummax(dim=0).values  # each at least one after the one before
    return pushed.clamp_max(total - len(wish)) + place
