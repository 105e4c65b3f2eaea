"""MiniCPM-V: an overview and slices of each image, packed into one sequence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from ...layout import Layout
from ..api import Model
from .base import Family
from .layout import Inputs, block_mean
from .medium import Medium, VideoNames


class Cropped(Medium):
    """Crops of any size, each an item; the encoder may merge blocks of 2x2 patches."""

    projector = "merger"
    grids = "target_sizes"
    settings = ("downsample_mode",)

    def layouts(self, model: Model, inputs: Inputs, sizes: Sequence[int]) -> list[Layout]:
        grids = self._grids(inputs)
        layouts = []
        for (high, wide), size in zip(grids, sizes, strict=True):
            side = _side(high * wide, size)
            layouts.append(Layout(((1, high // side, wide // side),)))
        return layouts

    def to_tokens(self, model: Model, inputs: Inputs, patches: Tensor) -> Tensor:
        mode = inputs.get("downsample_mode") or model.config.downsample_mode
        side = 2 if mode == "4x" else 4
        grids = self._grids(inputs)
        # after the merge in the encoder there is one row per block
        merged = _side(sum(high * wide for high, wide in grids), patches.shape[1])
        small = [(high // merged, wide // merged) for high, wide in grids]
        parts = patches.split([high * wide for high, wide in small], dim=1)
        block = side // merged
        return torch.cat(
            [block_mean(x, h, w, block)[0] for x, (h, w) in zip(parts, small, strict=True)]
        )

    def attention_layer(self, model: Model, layers: int, inputs: Inputs | None = None) -> int:
        """Return the encoder's last layer; the list of layers ends with the merging module."""
        return layers - 2

    def shallow_layer(self, model: Model, layers: int) -> int:
        return super().shallow_layer(model, layers - 1)

    def _grids(self, inputs: Inputs) -> list[tuple[int, int]]:
        return [(int(h), int(w)) for h, w in torch.as_tensor(inputs[self.grids]).tolist()]


def _side(patches: int, tokens: int) -> int:
    """Return the patches along the side of a token."""
    return math.isqrt(patches // tokens)


class CroppedClips(VideoNames, Cropped):
    """Clips: every crop of a frame is an item, as with images."""

    grids = "target_sizes_videos"


class MiniCPM(Cropped, Family):
    """The family of MiniCPM-V 4.6 and 4.7, and MiniCPM-OCR."""

    model_types: ClassVar[Sequence[str]] = ("minicpmv4_6", "minicpmv4_7", "minicpm_ocr")
    video: Medium | None = CroppedClips()
