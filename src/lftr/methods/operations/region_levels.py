"""Regions of a grid, each divided into more or fewer cells, exactly K cells in all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...values.tokens import Grid
from .cells import frame_cells
from .flows import mean_flow
from .remembered import remembered


@dataclass(frozen=True)
class Regions:
    """The regions of one shape in an item.

    A region is one cell at first. A *refinement* divides the cells of one level into those of the
    next, which costs the slots that it adds. Values of the ``E`` refinements of all regions of an
    item are a tensor ``(B, E)``; `by_level` tells them apart.

    Parameters
    ----------
    shape : (int, int)
        Rows and columns.
    levels : sequence of int
        Number of cells at each level, ascending from 1.
    inside : Tensor of int64, shape (R, rows * columns)
        The tokens of each region.
    """

    shape: tuple[int, int]
    levels: Sequence[int]
    inside: Tensor

    @property
    def cost(self) -> Tensor:
        """Slots that each of the ``L`` refinements adds: int64 ``(L,)``."""
        return torch.tensor(self.levels, device=self.inside.device).diff()


def regions_of(
    blocks: tuple[Grid, ...], keep: int, side: int, device: torch.device
) -> list[Regions]:
    """Return at most ``keep`` regions, by shape; none if there are more frames than that.

    Parameters
    ----------
    blocks : tuple of (T, H, W)
        The grids that the tokens fill one after the other.
    side : int
        Rows and columns of a region, doubled until there are so few. Those at a border are cut.
    """
    largest = max(max(rows, columns) for _, rows, columns in blocks)
    while _number(blocks, side) > keep and side < largest:
        side *= 2
    if _number(blocks, side) > keep:
        return []
    sides = [side >> level for level in range(side.bit_length())]
    return [
        Regions(
            (rows, columns),
            sorted({-(-rows // s) * -(-columns // s) for s in sides}),
            inside.to(device),
        )
        for (rows, columns), inside in _inside(blocks, side)
    ]


def costs(groups: Sequence[Regions]) -> Tensor:
    """Return how many slots each refinement adds: int64 ``(E,)``."""
    return torch.cat([group.cost.repeat_interleave(len(group.inside)) for group in groups])


def joined(values: Sequence[Tensor]) -> Tensor:
    """Return values ``(B, L, R)`` for each group as one tensor ``(B, E)``."""
    return torch.cat([value.flatten(1) for value in values], dim=1)


def by_level(values: Tensor, groups: Sequence[Regions]) -> list[Tensor]:
    """Return ``(B, L, R)`` for each group, made to fall from level to level.

    No cell is divided before the one that it is a part of.
    """
    shapes = [(len(group.levels) - 1, len(group.inside)) for group in groups]
    parts = values.split([levels * number for levels, number in shapes], dim=1)
    return [
        part.unflatten(1, shape).cummin(dim=1).values if shape[0] else part.unflatten(1, shape)
        for part, shape in zip(parts, shapes, strict=True)
    ]


def explained(x: Tensor, groups: Sequence[Regions]) -> Tensor:
    """Return the variance of ``x`` ``(B, N, C)`` that refinements explain per slot, ``(B, E)``.

    A level that explains little but opens one that explains much counts together with that.
    """
    return joined([_explained(x[:, group.inside], group) for group in groups])


def divide(worth: Tensor, groups: Sequence[Regions], keep: int) -> list[Tensor]:
    """Return the cells ``(B, R)`` of the regions of each group, ``keep`` in all.

    Refinements are made in the order of their worth ``(B, E)``, the last one only in part.
    """
    numbers = [len(group.inside) for group in groups]
    first = torch.tensor(numbers).cumsum(0) - torch.tensor(numbers)
    region = torch.cat(
        [
            (torch.arange(number, device=worth.device) + start).repeat(len(group.levels) - 1)
            for group, number, start in zip(groups, numbers, first.tolist(), strict=True)
        ]
    )
    order = joined(by_level(worth, groups)).argsort(dim=1, descending=True, stable=True)
    cost = costs(groups)[order]
    left = keep - sum(numbers) - (cost.cumsum(dim=1) - cost)  # before each refinement
    slots = torch.ones(len(order), sum(numbers), dtype=torch.int64, device=order.device)
    slots.scatter_add_(1, region[order], left.clamp_min(0).minimum(cost))
    return list(slots.split(numbers, dim=1))


def leaders(
    groups: Sequence[Regions], counts: Sequence[Tensor], level: int | None = None
) -> Tensor:
    """Return for each token the one in the middle of its cell: int64 ``(B, N)``.

    Parameters
    ----------
    counts : sequence of Tensor of int64, shape (B, R)
        The number of cells of the regions of each group.
    level : int, optional
        Take a region with more cells than at this level as if it had those: the leader is that of
        the cell that the middle of the larger one is in.
    """
    total = sum(group.inside.numel() for group in groups)
    leader = torch.zeros(len(counts[0]), total, dtype=torch.int64, device=counts[0].device)
    for group, slots in zip(groups, counts, strict=True):
        coarsest = group.levels[-1 if level is None else min(level, len(group.levels) - 1)]
        for count in slots.unique().tolist():
            lead = _leaders(group.shape, count)
            if coarsest < count:
                lead = lead[_leaders(group.shape, coarsest)]
            row, region = (slots == count).nonzero(as_tuple=True)
            inside = group.inside[region]
            leader[row.unsqueeze(1), inside] = inside[:, lead.to(inside.device)]
    return leader


def _number(blocks: tuple[Grid, ...], side: int) -> int:
    """Return the number of regions."""
    return sum(t * -(-rows // side) * -(-columns // side) for t, rows, columns in blocks)


@remembered
def _inside(blocks: tuple[Grid, ...], side: int) -> list[tuple[tuple[int, int], Tensor]]:
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


def _leaders(shape: tuple[int, int], count: int) -> Tensor:
    """Return the middle of the cell that each place of a region is in."""
    cell, anchor = frame_cells(*shape, count)
    return anchor[cell]


def _explained(x: Tensor, group: Regions) -> Tensor:
    """Return `explained` for the tokens ``(B, R, n, C)`` of a group, as ``(B, L, R)``."""
    batch, number, _, _ = x.shape
    within = []
    for count in group.levels:
        cell = frame_cells(*group.shape, count)[0].to(x.device)
        mean = mean_flow(cell.expand(batch * number, -1), count).combine(x.flatten(0, 1), count)
        lengths = mean.norm(dim=2).square() @ cell.bincount().float()
        within.append(lengths.unflatten(0, (batch, number)))
    gain, cost = torch.stack(within, dim=1).diff(dim=1), group.cost
    whole = [
        (gain[:, i:].cumsum(dim=1) / cost[i:].cumsum(dim=0).unsqueeze(1)).amax(dim=1)
        for i in range(len(cost))
    ]
    return torch.stack(whole, dim=1) if whole else gain
