"""How an item's tokens lie."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..values.tokens import Grid


@dataclass(frozen=True)
class Layout:
    """How an item's tokens lie: its grids, one after the other, and which are separators."""

    tiles: tuple[Grid, ...] | None = None
    separator: Tensor | None = None

    @property
    def fields(self) -> dict[str, Any]:
        """What `lftr.VisualTokens` calls these: one grid, or tiles, and the separators."""
        name = "tiles" if self.grid is None else "grid"
        return {name: self.tiles if self.grid is None else self.grid, "separator": self.separator}

    @property
    def grid(self) -> Grid | None:
        """The one grid that the tokens fill, where it is one."""
        return self.tiles[0] if self.tiles is not None and len(self.tiles) == 1 else None

    def followed_by(self, other: Layout) -> Layout:
        """Return the layout of a clip and of frames of the same grid after it."""
        assert self.grid is not None
        assert other.grid is not None
        marks = [part.separator for part in (self, other) if part.separator is not None]
        frames, rows, columns = self.grid
        return Layout(
            ((frames + other.grid[0], rows, columns),), torch.cat(marks) if marks else None
        )

    @classmethod
    def square(cls, size: int) -> Layout:
        """Return the layout of ``size`` tokens on a square, or unknown if they do not fill one."""
        side = math.isqrt(size)
        return cls(((1, side, side),) if side * side == size else None)
