"""Apply a decision to each frame, tile or clip of an item separately."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from ...values.selection import Selection
from ...values.tokens import Grid, VisualTokens
from .composing import Joined


def frames_of(tokens: VisualTokens) -> list[Grid]:
    """Return the layout of every frame and tile of an item, in order."""
    return [(1, rows, columns) for t, rows, columns in tokens.blocks for _ in range(t)]


def blockwise(
    tokens: VisualTokens,
    counts: Sequence[Sequence[int]],
    choose: Callable[[VisualTokens, int], Selection],
    blocks: Sequence[Grid] | None = None,
) -> Selection:
    """Decide for every block of every item of a stack; blocks of one size and count are stacked.

    Parameters
    ----------
    tokens : VisualTokens
        A stack of ``B`` items.
    counts : (B, F) whole numbers
        Slots that each block keeps. The sums are equal for all items; a block with 0 is dropped.
    choose : function of (VisualTokens, int)
        Decides for a stack of blocks.
    blocks : sequence of (T, H, W), optional
        The layouts of the blocks, in order; by default each frame is a block.
    """
    grids, device = blocks or frames_of(tokens), tokens.features.device
    sizes = torch.tensor([frames * rows * columns for frames, rows, columns in grids])
    number = torch.tensor(counts)
    token, slot = sizes.cumsum(0) - sizes, number.cumsum(1) - number
    groups: dict[tuple[Grid, int], list[tuple[int, int]]] = {}
    for row, row_counts in enumerate(counts):
        for block, count in enumerate(row_counts):
            if count:
                groups.setdefault((grids[block], count), []).append((row, block))
    joined = Joined(len(counts), int(number[0].sum()), device)
    for (grid, count), members in groups.items():
        rows, places = torch.tensor(members).T
        part = choose(tokens.cut(rows.to(device), token[places].to(device), grid), count)
        joined.add(part, rows, token[places], slot[rows, places])
    return joined.selection()
