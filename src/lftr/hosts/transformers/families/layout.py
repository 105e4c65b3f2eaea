"""Helpers for reading off a model's arguments how tokens lie."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ....values.tokens import Grid

Inputs = Mapping[str, Any]


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
