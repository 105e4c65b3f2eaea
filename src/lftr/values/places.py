"""Where visual tokens lie in their images: the grids, and the place of each token in them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Places:
    """Where the visual tokens of a prompt lie in its images and videos.

    Attributes
    ----------
    blocks : tuple of (rows, columns)
        The grids of all images, tiles and frames of the prompt, in order. Where a model does not
        say how an item's tokens lie, they are one row.
    coordinates : Tensor of int64, shape (N, 3)
        Block, row and column of each token; -1 for layout tokens (newlines).
    """

    blocks: tuple[tuple[int, int], ...]
    coordinates: Tensor

    def at(self, index: Tensor) -> Places:
        """Return the places of some of the tokens, in the same blocks."""
        coordinates = self.coordinates[index.to(self.coordinates.device)].to(index.device)
        return Places(self.blocks, coordinates)


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def grid_coordinates(grids: tuple[tuple[int, int, int], ...]) -> Tensor:
    """Return frame, row and column of the tokens of grids ``(T, H, W)``, one after the other.

    Returns
    -------
    Tensor of int64, shape (N, 3)
        On the CPU; not to be changed. Frames are counted through all grids.
    """
    parts, first = [], 0
    for frames, rows, columns in grids:
        axes = [torch.arange(n, device="cpu") for n in (frames, rows, columns)]
        axes[0] = axes[0] + first
        parts.append(torch.cartesian_prod(*axes).reshape(-1, 3))
        first += frames
    return torch.cat(parts)
