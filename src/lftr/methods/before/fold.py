"""SynerGen-VL's token folding, read out as a mean; and its exact reshape and inverse."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

from ...options.checks import Range
from ...values.selection import Selection
from ...values.source import Source
from ...values.tokens import Grid, VisualTokens
from ..base import Method
from ..operations.cells import cells
from ..operations.flows import mean_flow

Window = tuple[int, int]


@dataclass(frozen=True)
class Fold(Method, name="fold"):
    """Average windows of ``rows x columns`` tokens: token folding without its trained MLP.

    The window sets the shape of the cells and ``keep`` their number, so that every ``K`` is
    possible. At ``K = N / (rows * columns)`` the cells are the windows themselves, if those fit the
    grid.

    Parameters
    ----------
    rows, columns : int
        Height and width of a window in tokens; 2 x 8 as published.

    Notes
    -----
    See `fold` and `unfold` for the exact reshape.
    Differs from the original: there a trained MLP maps the concatenated channels of a window; here
    they are averaged.
    """

    source = Source(
        "SynerGen-VL", arxiv="2412.09604", note="its token folding, without the trained MLP"
    )
    rows: Annotated[int, Range(1)] = 2
    columns: Annotated[int, Range(1)] = 8

    def choose(self, tokens: VisualTokens, keep: int) -> Selection:
        parts = cells(tokens.blocks, keep, aspect=self.columns / self.rows)
        cell, anchor = (
            p.to(tokens.features.device).expand(len(tokens.features), -1) for p in parts
        )
        return Selection(anchor, mean_flow(cell, keep))


def fold(x: Tensor, grid: Grid, window: Window = (2, 8)) -> tuple[Tensor, Tensor]:
    """Concatenate the channels of every window of tokens.

    Parameters
    ----------
    x : Tensor, shape (..., N, C)
        Tokens in raster order.
    grid : (T, H, W)
        Their layout.
    window : (int, int)
        Rows and columns of a window. A grid that windows do not fill is padded with zeros below and
        on the right.

    Returns
    -------
    folded : Tensor, shape (..., M, rows * columns * C)
        ``M = T * ceil(H / rows) * ceil(W / columns)`` windows.
    mask : Tensor of bool, shape (M, rows * columns)
        Which of a window's places hold a token and no padding.
    """
    (frames, height, width), (rows, columns) = grid, window
    lead, channels = x.shape[:-2], x.shape[-1]
    down, across = -height % rows, -width % columns

    def windows(image: Tensor) -> Tensor:
        """Turn ``(..., T, H, W, c)`` into ``(..., M, rows * columns, c)``."""
        image = F.pad(image, (0, 0, 0, across, 0, down))
        image = image.unflatten(-2, (-1, columns)).unflatten(-4, (-1, rows)).transpose(-3, -4)
        return image.flatten(-3, -2).flatten(-5, -3)

    folded = windows(x.reshape(*lead, frames, height, width, channels)).flatten(-2)
    mask = windows(torch.ones(frames, height, width, 1, device=x.device)).squeeze(-1).bool()
    return folded, mask


def unfold(folded: Tensor, grid: Grid, window: Window = (2, 8)) -> Tensor:
    """Return the tokens ``(..., N, C)`` that `fold` made ``folded`` of; its exact inverse."""
    (frames, height, width), (rows, columns) = grid, window
    down, across = -(-height // rows), -(-width // columns)
    shape = (frames, down, across, rows, columns, -1)
    image = folded.reshape(*folded.shape[:-2], *shape).transpose(-3, -4)
    image = image.flatten(-3, -2).flatten(-4, -3)
    return image[..., :height, :width, :].flatten(-4, -2)
