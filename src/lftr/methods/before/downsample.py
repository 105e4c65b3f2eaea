"""Control: make the image itself smaller before it is encoded."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ...values.selection import Selection
from ...values.source import Source
from ...values.tokens import Grid, VisualTokens
from ..base import ImageMethod
from ..operations.cells import centres


@dataclass(frozen=True)
class Downsample(ImageMethod, name="downsample"):
    """Encode a smaller image of the same shape with at least K patches, and keep exactly K of them.

    The control for "just use a smaller image". The encoder must accept other image sizes by
    interpolating its position embeddings, and the host must encode the image again. Where only
    tokens are available, the tokens at the centres of the small image's patches are chosen instead.
    """

    source = Source("this project", note="a control")

    def choose(self, tokens: VisualTokens, keep: int) -> Selection:
        grid = tokens.blocks[0] if len(tokens.blocks) == 1 else (1, 1, tokens.count)
        anchors = self.anchors(grid, keep).to(tokens.features.device)
        return Selection(anchors.expand(len(tokens.features), keep))

    def small_grid(self, grid: Grid, keep: int) -> Grid:
        frames, high, wide = grid
        each = math.ceil(keep / frames)
        # of all grids that are large enough, the one nearest to the full grid's shape
        options = [(h, math.ceil(each / h)) for h in range(1, high + 1)]
        fitting = [(h, w) for h, w in options if w <= wide]
        h, w = min(fitting, key=lambda s: (abs(math.log(s[0] * wide / (s[1] * high))), s[0] * s[1]))
        return frames, h, w

    def cells(self, grid: Grid, keep: int) -> Tensor:
        total = math.prod(self.small_grid(grid, keep))
        return (2 * torch.arange(keep, device="cpu") + 1) * total // (2 * keep)

    def anchors(self, grid: Grid, keep: int) -> Tensor:
        """Return the token of the full image at the centre of each of `cells`; int64 ``(K,)``."""
        _, h, w = self.small_grid(grid, keep)
        cell = self.cells(grid, keep)
        frame, row, column = cell // (h * w), cell // w % h, cell % w
        rows, columns = centres(grid[1], h), centres(grid[2], w)
        return (frame * grid[1] + rows[row]) * grid[2] + columns[column]
