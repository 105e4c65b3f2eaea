"""How an item's tokens lie, and helpers for reading it off a model's arguments."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ....values.tokens import Grid

Inputs = Mapping[str, Any]


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


def block_mean(patches: Tensor, height: int, width: int, size: int) -> Tensor:
    """Mean over blocks of ``size x size`` patches, ``(tiles, H * W, c)`` to ``(tiles, K, c)``."""
    tiles, _, channels = patches.shape
    shape = (tiles, height // size, size, width // size, size, channels)
    return patches.reshape(shape).mean(dim=(2, 4)).flatten(1, 2)


def square_side(patches: Tensor) -> int:
    """Side of the square that the patches of a tile fill."""
    return math.isqrt(patches.shape[1])


def grid_split(patches: Tensor, grids: Sequence[Grid]) -> list[Tensor]:
    """Cut one packed sequence ``(1, P, c)`` into the images' own, ``(1, t * h * w, c)`` each."""
    return list(patches.split([t * h * w for t, h, w in grids], dim=1))


def grids_of(inputs: Inputs, name: str) -> list[Grid]:
    """Read an argument of rows ``(t, h, w)`` as tuples of int."""
    value = torch.as_tensor(inputs[name])
    return [(int(t), int(h), int(w)) for t, h, w in value.tolist()]


def resize_pixels(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize images ``(n, c, h, w)`` bilinearly, with antialiasing."""
    small = nn.functional.interpolate(
        pixels.float(), size, mode="bilinear", align_corners=False, antialias=True
    )
    return small.to(pixels.dtype)
