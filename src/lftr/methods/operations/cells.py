"""Divide grids into exactly K cells. Results depend on sizes alone and are cached."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...values.budget import share
from ...values.tokens import Grid, VisualTokens
from .remembered import remembered


@remembered
def cells(blocks: tuple[Grid, ...], count: int, aspect: float = 1.0) -> tuple[Tensor, Tensor]:
    """Divide all tokens of ``blocks`` into exactly ``count`` rectangular cells.

    Frames and tiles get cells in proportion to their size. With fewer cells than frames, a cell is
    a run of whole frames.

    Parameters
    ----------
    blocks : tuple of (T, H, W)
        The grids that the tokens fill one after the other.
    count : int
        Number of cells, at most the number of tokens.
    aspect : float
        Desired ratio of width to height of a cell.

    Returns
    -------
    cell : Tensor of int64, shape (N,), on the CPU
        Cell of each token.
    anchor : Tensor of int64, shape (count,), on the CPU
        Token at the middle of each cell (the upper left one of two or four), ascending.
    """
    frames = [(h, w) for t, h, w in blocks for _ in range(t)]
    sizes = torch.tensor([h * w for h, w in frames], device="cpu")
    first = sizes.cumsum(0) - sizes
    if count < len(frames):
        middle = centres(len(frames), count)
        inner = [frame_cells(*frame, 1)[1] for frame in map(frames.__getitem__, middle.tolist())]
        return parts(len(frames), count).repeat_interleave(sizes), torch.cat(inner) + first[middle]
    cell, anchor, slot = [], [], 0
    for i, number in enumerate(share(count, sizes.tolist(), sizes.tolist())):
        inside, middle = frame_cells(*frames[i], number, aspect)
        cell.append(inside + slot)
        anchor.append(middle + first[i])
        slot += number
    return torch.cat(cell), torch.cat(anchor)


@remembered
def frame_cells(rows: int, columns: int, count: int, aspect: float = 1.0) -> tuple[Tensor, Tensor]:
    """Divide one frame into ``count`` cells; see `cells`."""
    in_band = bands(rows, columns, count, aspect)
    offset = in_band.cumsum(0) - in_band
    band = parts(rows, len(in_band))
    column = torch.arange(columns, device="cpu")
    cell = offset[band, None] + ((column + 1) * in_band[band, None] - 1) // columns
    band = torch.arange(len(in_band), device="cpu").repeat_interleave(in_band)
    step, width = torch.arange(count, device="cpu") - offset[band], in_band[band]
    across = (step * columns // width + (step + 1) * columns // width - 1) // 2
    return cell.flatten(), centres(rows, len(in_band))[band] * columns + across


def bands(rows: int, columns: int, count: int, aspect: float = 1.0) -> Tensor:
    """Return how many cells each band of rows is divided into, ``count`` in all, evenly."""
    ideal = round(math.sqrt(count * rows * aspect / columns))
    number = min(max(ideal, 1, math.ceil(count / columns)), rows, count)
    return edges(count, number).diff()


def edges(total: int, count: int) -> Tensor:
    """Return the ``count + 1`` borders that divide ``total`` places evenly."""
    return torch.arange(count + 1, device="cpu") * total // count


def parts(total: int, count: int) -> Tensor:
    """Return which part each of ``total`` places is in; see `edges`."""
    return ((torch.arange(total, device="cpu") + 1) * count - 1) // total


def centres(total: int, count: int) -> Tensor:
    """Return the middle place of each part, the first of two; see `edges`."""
    border = edges(total, count)
    return (border[:-1] + border[1:] - 1) // 2


def candidates(total: int, keep: int, share: float) -> int:
    """Return ``share * sqrt(total * keep)``, rounded up, between ``keep`` and ``total``."""
    return max(keep, math.ceil(min(total, share * math.sqrt(total * keep))))


def evenly_spaced(tokens: VisualTokens, count: int) -> Tensor:
    """Return ``count`` tokens that are evenly spread over an item's grids, ascending."""
    device = tokens.features.device
    if count == tokens.count:
        return torch.arange(count, device=device)
    return cells(tokens.blocks, count)[1].to(device)
