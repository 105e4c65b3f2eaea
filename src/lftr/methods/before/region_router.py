"""FocusLLaVA's vision-guided sampler without training: pool uniform regions more coarsely."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from ...options.checks import Range
from ...values.selection import Selection
from ...values.source import Source
from ...values.tokens import Grid, VisualTokens
from ..base import Method
from ..operations.cells import frame_cells
from ..operations.flows import groups_of, mean_flow
from ..operations.remembered import remembered
from ..operations.scaling import unit
from .pool import Pool


@dataclass(frozen=True)
class RegionRouter(Method, name="region-router"):
    """Pool each region of the grid 4 x 4, 2 x 2 or not at all, by how much its tokens vary.

    Every region starts as one cell. Dividing it into the cells of the next level costs slots and
    explains part of the variance of its tokens. Regions are divided in the order of variance
    explained per slot until ``keep`` slots are used, the last one only in part, so that every ``K``
    is possible. With fewer slots than regions, regions are made twice as large on each side; with
    fewer slots than frames this is `Pool`. A slot is the mean of its cell, its anchor the token in
    the middle. Tokens without a grid are treated as one row.

    Parameters
    ----------
    region : int
        Rows and columns of a region; 4 as published.

    Notes
    -----
    Differs from the original: variance replaces its trained gate, which chooses the level of each
    region. The text-guided sampler inside the language model is not included.
    """

    source = Source(
        "FocusLLaVA", arxiv="2411.14228", note="a training-free version of the trained original"
    )
    region: Annotated[int, Range(1)] = 4

    def choose(self, tokens: VisualTokens, keep: int) -> Selection:
        side, largest = self.region, max(max(rows, columns) for _, rows, columns in tokens.blocks)
        while _number(tokens.blocks, side) > keep and side < largest:
            side *= 2
        if _number(tokens.blocks, side) > keep:
            return Pool().choose(tokens, keep)
        groups = _regions(tokens.blocks, side)
        x, place = unit(tokens.features), tokens.features.device
        routes = [_refinements(x[:, inside.to(place)], shape, side) for shape, inside in groups]
        counts = _spend(routes, keep).split([len(inside) for _, inside in groups], dim=1)
        leader = torch.zeros(x.shape[:2], dtype=torch.int64, device=place)
        for (shape, inside), slots in zip(groups, counts, strict=True):
            inside = inside.to(place)
            for count in slots.unique().tolist():
                cell, anchor = (part.to(place) for part in frame_cells(*shape, count))
                row, region = (slots == count).nonzero(as_tuple=True)
                leader[row.unsqueeze(1), inside[region]] = inside[region][:, anchor[cell]]
        index, slot = groups_of(leader)
        return Selection(index, mean_flow(slot, keep))


def _number(blocks: tuple[Grid, ...], side: int) -> int:
    """Return the number of regions."""
    return sum(t * -(-rows // side) * -(-columns // side) for t, rows, columns in blocks)


@remembered
def _regions(blocks: tuple[Grid, ...], side: int) -> list[tuple[tuple[int, int], Tensor]]:
    """Return the regions' tokens ``(R, rows * columns)`` by shape; those at the border are cut."""
    groups: dict[tuple[int, int], list[Tensor]] = {}
    first = 0
    for frames, rows, columns in blocks:
        size = frames * rows * columns
        image = torch.arange(first, first + size, device="cpu").reshape(frames, rows, columns)
        for band in image.split(side, dim=1):
            for part in band.split(side, dim=2):
                groups.setdefault((part.shape[1], part.shape[2]), []).append(part.flatten(1))
        first += size
    return [(shape, torch.cat(inside)) for shape, inside in groups.items()]


def _refinements(x: Tensor, shape: tuple[int, int], side: int) -> tuple[Tensor, Tensor]:
    """Return the slots that each level adds ``(L,)`` and the variance explained ``(B, L, R)``."""
    sides = [side >> level for level in range(side.bit_length())]
    levels = sorted({-(-shape[0] // s) * -(-shape[1] // s) for s in sides})
    explained = []
    for count in levels:
        cell = frame_cells(*shape, count)[0].to(x.device)
        mean = mean_flow(cell.expand(x.shape[:2].numel(), -1), count).combine(
            x.flatten(0, 1), count
        )
        explained.append(
            (mean.norm(dim=2).square() @ cell.bincount().float()).unflatten(0, x.shape[:2])
        )
    cost = torch.tensor(levels, device=x.device).diff()
    return cost, torch.stack(explained, dim=1).diff(dim=1)


def _spend(routes: list[tuple[Tensor, Tensor]], keep: int) -> Tensor:
    """Return the slots ``(B, R)`` of every region, ``keep`` in each row."""
    rates, costs, regions, total = [], [], [], 0
    for cost, gain in routes:
        _, levels, number = gain.shape
        rates.append(_rates(cost, gain).flatten(1))
        costs.append(cost.repeat_interleave(number))
        regions.append((torch.arange(number, device=cost.device) + total).repeat(levels))
        total += number
    order = torch.cat(rates, dim=1).argsort(dim=1, descending=True, stable=True)
    cost = torch.cat(costs)[order]
    left = keep - total - (cost.cumsum(dim=1) - cost)  # before each refinement
    slots = torch.ones(len(order), total, dtype=torch.int64, device=order.device)
    return slots.scatter_add_(1, torch.cat(regions)[order], left.clamp_min(0).minimum(cost))


def _rates(cost: Tensor, gain: Tensor) -> Tensor:
    """Return the variance explained per slot ``(B, L, R)``, falling from level to level.

    A level that explains little but opens one that explains much counts together with that.
    """
    whole = [
        (gain[:, i:].cumsum(dim=1) / cost[i:].cumsum(dim=0).unsqueeze(1)).amax(dim=1)
        for i in range(len(cost))
    ]
    return torch.stack(whole, dim=1).cummin(dim=1).values if whole else gain
