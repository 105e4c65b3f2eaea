"""Square windows of the grid: which window each token is in, and choices that cover all windows."""

from __future__ import annotations

import torch
from torch import Tensor

from ...values.tokens import Grid
from .remembered import remembered
from .turns import turns


@remembered
def windows(blocks: tuple[Grid, ...], side: int) -> Tensor:
    """Return the window of each token, int64 ``(N,)``; windows do not cross frames or tiles.

    Windows that are cut by the border belong to their neighbour.
    """
    parts, first = [], 0
    for frames, rows, columns in blocks:
        high, wide = (max(1, length // side) for length in (rows, columns))
        row = (torch.arange(rows, device="cpu") // side).clamp_max(high - 1)
        column = (torch.arange(columns, device="cpu") // side).clamp_max(wide - 1)
        window = (row.unsqueeze(1) * wide + column).flatten()
        frame = torch.arange(frames, device="cpu").unsqueeze(1) * high * wide
        parts.append((first + frame + window).flatten())
        first += frames * high * wide
    return torch.cat(parts)


def spread_top(scores: Tensor, window: Tensor, count: int) -> Tensor:
    """Return the ``count`` highest of ``scores`` ``(B, N)`` of which each window takes its share.

    The share is equal, rounded up. Where some windows have fewer tokens than their share, the rest
    is chosen by score alone.
    """
    window = window.to(scores.device)
    limit = -(-count // (int(window.max()) + 1))
    order = scores.argsort(dim=1, descending=True, stable=True)
    late = (turns(scores, window) >= limit).gather(1, order)
    return order.gather(1, late.int().argsort(dim=1, stable=True)[:, :count])
