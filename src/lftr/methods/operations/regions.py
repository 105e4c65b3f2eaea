"""Regions of interest in frames, on a grid of pairs of horizontally adjacent tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .cells import frame_cells

Shape = tuple[int, int]


def halved(shape: Shape, transposed: bool = False) -> Shape:
    """Return rows and columns of a frame's pairs; an odd last column is alone.

    Parameters
    ----------
    shape : (int, int)
        Rows and columns of tokens.
    transposed : bool
        Whether the rows are taken to be half as many and twice as long, where they are even.
    """
    rows, columns = shape[0], -(-shape[1] // 2)
    return (rows // 2, 2 * columns) if transposed and rows % 2 == 0 else (rows, columns)


def pairs_of(x: Tensor, shape: Shape, pool: str) -> Tensor:
    """Pool the pairs of frames ``(F, N, P)`` of the given shape by ``"max"`` or ``"avg"``."""
    rows, columns = shape
    grid = x.unflatten(1, (rows, columns))
    left, right = grid[:, :, ::2], grid[:, :, 1::2]
    if columns % 2:
        right = torch.cat([right, left[:, :, -1:]], dim=2)  # the last one with itself
    pooled = torch.maximum(left, right) if pool == "max" else (left + right) / 2
    return pooled.flatten(1, 2)


@dataclass(frozen=True)
class Region:
    """A box in the grid of a frame's pairs.

    Parameters
    ----------
    box : (left, right, top, bottom)
        Its borders, right and bottom excluded.
    columns : int
        Width of the grid that it is a box of.
    score : Tensor, shape (pairs of the frame,)
        Score by which the box was placed.
    """

    box: tuple[int, int, int, int]
    columns: int
    score: Tensor

    @staticmethod
    def size(rows: int, columns: int, share: float) -> Shape:
        """Return the rows and columns of a box of that share of a grid."""
        side = math.sqrt(share)
        return max(1, round(rows * side)), max(1, round(columns * side))

    @property
    def index(self) -> Tensor:
        """The pairs inside, row by row."""
        left, right, top, bottom = self.box
        rows = torch.arange(top, bottom, device="cpu").unsqueeze(1) * self.columns
        return (rows + torch.arange(left, right, device="cpu")).flatten()

    def tokens(self, shape: Shape) -> Tensor:
        """Return the tokens inside."""
        first, second, _ = self._members(shape)
        inside: Tensor = torch.cat([first, second]).unique()
        return inside

    def slots(self, shape: Shape, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return the slots and tokens that flow, and each slot's anchor, for ``count`` slots.

        At the number of pairs a slot is a pair; with fewer, slots are cells of pairs; with more,
        the pairs of the highest scores part.
        """
        left, right, top, bottom = self.box
        first, second, double = self._members(shape)
        number = len(first)
        if count <= number:
            cell, middle = frame_cells(bottom - top, right - left, count)
            anchor, other = first[middle], cell
        else:
            score = self.score.cpu()[self.index].masked_fill(~double, -torch.inf)
            part = score.argsort(descending=True, stable=True)[: count - number]
            cell = torch.arange(number)
            other = cell.clone()
            other[part] = torch.arange(number, count)
            anchor = torch.cat([first, second[part]])
        slot = torch.cat([cell, other[double]])
        return slot, torch.cat([first, second[double]]), anchor

    def _members(self, shape: Shape) -> tuple[Tensor, Tensor, Tensor]:
        """Return the first and second token of each pair inside, and whether it has two."""
        columns, half = shape[1], -(-shape[1] // 2)
        row, pair = self.index // half, self.index % half
        first = row * columns + 2 * pair
        double = 2 * pair + 1 < columns
        return first, torch.where(double, first + 1, first), double


def regions(score: Tensor, shape: Shape, share: float) -> list[Region]:
    """Return the region of each frame: around the middle of its highest scores, inside the grid.

    Parameters
    ----------
    score : Tensor, shape (F, rows * columns)
        Of each pair.
    shape : (int, int)
        Rows and columns of the pairs.
    share : float
        Share of the frame that the region is, and of its pairs whose middle it is around.
    """
    rows, columns = shape
    height, width = Region.size(rows, columns, share)
    number = max(1, int(rows * columns * share))
    best = score.argsort(dim=1, descending=True, stable=True)[:, :number]
    y = (best // columns).float().mean(dim=1).int() - height // 2
    x = (best % columns).float().mean(dim=1).int() - width // 2
    tops = y.clamp(0, rows - height).tolist()
    lefts = x.clamp(0, columns - width).tolist()
    return [
        Region((left, left + width, top, top + height), columns, worth)
        for left, top, worth in zip(lefts, tops, score, strict=True)
    ]
