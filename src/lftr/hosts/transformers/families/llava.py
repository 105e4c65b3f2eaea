"""LLaVA-1.5 and its kin: one image, one square of tokens (or Pixtral's own shape)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ....tokens import Grid
from .base import Family, Inputs, Layout


class Llava(Family):
    """LLaVA and VipLLaVA; with a Pixtral tower, images keep their own shape."""

    model_types: ClassVar[Sequence[str]] = ("llava", "vipllava")

    def layouts(self, model: nn.Module, inputs: Inputs, sizes: Sequence[int]) -> list[Layout]:
        image_sizes = inputs.get("image_sizes")
        if image_sizes is None:
            return super().layouts(model, inputs, sizes)
        patch: Any = self.module(model, self.tower).patch_size
        grids = [(1, int(h) // patch, int(w) // patch) for h, w in torch.as_tensor(image_sizes)]
        return [Layout((grid,)) for grid in grids]

    def resized(self, model: nn.Module, inputs: Inputs, grid: Grid) -> dict[str, Any]:
        pixels = resize_pixels(inputs["pixel_values"], grid, self.patch_size(model))
        return {**inputs, "pixel_values": pixels, "interpolate_pos_encoding": True}

    def patch_size(self, model: nn.Module) -> int:
        """Side of a patch in pixels."""
        config: Any = model.config
        return int(config.vision_config.patch_size)


class PaliGemma(Llava):
    """PaliGemma: SigLIP, one square of tokens."""

    model_types: ClassVar[Sequence[str]] = ("paligemma",)


def resize_pixels(pixels: Tensor, grid: Grid, patch: int) -> Tensor:
    """Resize images ``(n, c, h, w)`` so that their patches form ``grid``, with antialiasing."""
    size = (grid[1] * patch, grid[2] * patch)
    small = nn.functional.interpolate(
        pixels.float(), size, mode="bilinear", align_corners=False, antialias=True
    )
    return small.to(pixels.dtype)
