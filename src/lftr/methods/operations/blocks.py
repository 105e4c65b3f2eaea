"""Deciding for each frame or tile of an item on its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from ...selection import Selection
from ...tokens import Grid, VisualTokens
from .composing import Joined


def frames_of(tokens: VisualTokens) -> list[Grid]:
    """Return the layout of every frame and tile of an item, in order."""
    return [(1, rows, columns) for t, rows, columns in tokens.blocks for _ in range(t)]


def blockwise(
    tokens: VisualTokens,
    counts: Sequence[Sequence[int]],
    choose: Callable[[VisualTokens, int], Selection],
) -> Selection:
    """Decide for every frame of every item of a stack; equal sizes and counts go together.

    Parameters
    ----------
    tokens : VisualTokens
        A stack of ``B`` items.
    counts : (B, F) whole numbers
        Slots that each frame keeps, at least one; with equal sums for all items.
    choose : function of (VisualTokens, int)
        Decides for a stack of frames.
    """
    grids, device = frames_of(tokens), tokens.features.device
    sizes = torch.tensor([rows * columns for _, rows, columns in grids])
    given = torch.tensor(counts)
    token, slot = sizes.cumsum(0) - sizes, given.cumsum(1) - given
    groups: dict[tuple[Grid, int], list[tuple[int, int]]] = {}
    for row, row_counts in enumerate(counts):
        for frame, count in enumerate(row_counts):
            groups.setdefault((grids[frame], count), []).append((row, frame))
    joined = Joined(len(counts), int(given[0].sum()), device)
    for (grid, count), members in groups.items():
        rows, frames = torch.tensor(members).T
        part = choose(tokens.cut(rows.to(device), token[frames].to(device), grid), count)
        joined.add(part, rows, token[frames], slot[rows, frames])
    return joined.selection()
