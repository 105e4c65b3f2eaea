"""Qwen-VL, GLM-V and Kimi: images at their own size, packed, patches merged two by two."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ....errors import UnsupportedModelError
from ....tokens import Grid
from .base import Family
from .layout import Inputs, Layout, block_mean, grid_split, grids_of, resize_pixels
from .medium import Clips, Medium


class Packed(Medium):
    """Patches of all images or clips in one sequence, grouped by the token that they make.

    A clip's grid counts pairs of frames, which share their patches.
    """

    tower = "visual"
    projector = "visual.merger"

    def merge(self, model: Any) -> int:
        """Patches along the side of a token."""
        return int(model.base_model.visual.spatial_merge_size)

    def layouts(self, model: nn.Module, inputs: Inputs, sizes: Sequence[int]) -> list[Layout]:
        side = self.merge(model)
        grids = grids_of(inputs, self.grids)
        return [Layout(((t, h // side, w // side),)) for t, h, w in grids]

    def to_tokens(self, model: nn.Module, inputs: Inputs, patches: Tensor) -> Tensor:
        flat = patches.flatten(0, 1)
        return flat.reshape(-1, self.merge(model) ** 2, flat.shape[-1]).mean(dim=1)

    def resized(self, model: Any, inputs: Inputs, grids: Sequence[Grid]) -> list[Inputs]:
        side = self.merge(model)
        given = grids_of(inputs, self.grids)
        rows = self.pixels_of(inputs).split([t * h * w for t, h, w in given])
        config = model.config.vision_config
        found: list[Inputs] = []
        for patches, (t, h, w), (_, high, wide) in zip(rows, given, grids, strict=True):
            image = _images(patches, (t, h, w), side, config)
            size = (high * side * config.patch_size, wide * side * config.patch_size)
            small = (t, high * side, wide * side)
            found.append(
                {
                    **inputs,
                    self.pixels[0]: _patches(resize_pixels(image, size), small, side, config),
                    self.grids: torch.tensor([small]),
                }
            )
        return found


class PackedClips(Clips, Packed):
    """Their clips."""


class QwenVL(Packed, Family):
    """Qwen2-VL, Qwen3-VL and Qwen3.5; from 3 on a run of placeholders for each pair of frames."""

    model_types: ClassVar[Sequence[str]] = (
        "qwen2_vl",
        "qwen3_vl",
        "qwen3_vl_moe",
        "qwen3_5",
        "qwen3_5_moe",
    )
    video: Medium | None = PackedClips()

    def first_layer_to_reduce(self, model: Any) -> int:
        """Return the layer after those that DeepStack adds features to."""
        planes = getattr(model.base_model.visual, "deepstack_visual_indexes", None) or ()
        return max(super().first_layer_to_reduce(model), len(planes))


def _images(patches: Tensor, grid: Grid, side: int, config: Any) -> Tensor:
    """Put flattened patches, grouped by token, back into images ``(t * T, c, h, w)``."""
    t, h, w = grid
    size, depth = config.patch_size, config.temporal_patch_size
    split = (t, h // side, w // side, side, side, -1, depth, size, size)
    x = patches.reshape(split).permute(0, 6, 5, 1, 3, 7, 2, 4, 8)
    return x.reshape(t * depth, -1, h * size, w * size)


def _patches(images: Tensor, grid: Grid, side: int, config: Any) -> Tensor:
    """Cut images into flattened patches, grouped by token: the inverse of `_images`."""
    t, h, w = grid
    size, depth = config.patch_size, config.temporal_patch_size
    split = (t, depth, -1, h // side, side, size, w // side, side, size)
    x = images.reshape(split).permute(0, 3, 6, 4, 7, 2, 1, 5, 8)
    return x.reshape(t * h * w, -1)


class Convolved(Packed):
    """GLM-4V: a convolution merges the patches before the merger sees them.

    Images and clips have the same placeholder; those of a clip stand between marks of their own.
    """

    projector = "visual.post_layernorm"

    def placeholders(self, model: nn.Module, input_ids: Tensor) -> Tensor:
        config: Any = model.config
        begun = input_ids.eq(config.video_start_token_id).cumsum(dim=1)
        ended = input_ids.eq(config.video_end_token_id).cumsum(dim=1)
        in_clip = begun > ended
        return input_ids.eq(config.image_token_id) & (in_clip == (self.name == "video"))


class ConvolvedClips(Clips, Convolved):
    """Their clips."""


class Glm4V(Convolved, QwenVL):
    """GLM-4V and GLM-4.6V."""

    model_types: ClassVar[Sequence[str]] = ("glm4v", "glm4v_moe", "glm46v")
    video: Medium | None = ConvolvedClips()

    def check_together(self, model: Any, media: Sequence[Medium]) -> None:
        if len(media) > 1:
            raise UnsupportedModelError(
                f"{model.config.model_type} takes images or videos in one call, not both: they "
                "share a placeholder, and the model counts it for each"
            )


class Windowed(Packed):
    """Qwen2.5-VL: most layers attend in windows, and tokens travel in window order."""

    def attention_layer(self, model: Any, layers: int, inputs: Inputs | None = None) -> int:
        """Return the last layer with full attention; others see their own window alone."""
        return int(max(model.base_model.visual.fullatt_block_indexes))

    def shallow_layer(self, model: Any, layers: int) -> int:
        """Return the last layer of the first half with full attention: 16 of 32, from one."""
        full = model.base_model.visual.fullatt_block_indexes
        return int(max((i for i in full if i < layers // 2), default=min(full)))

    def to_tokens(self, model: Any, inputs: Inputs, patches: Tensor) -> Tensor:
        from transformers.vision_utils import get_vision_window_index

        visual = model.base_model.visual
        window, _ = get_vision_window_index(
            torch.as_tensor(inputs[self.grids]),
            spatial_merge_size=visual.spatial_merge_size,
            window_size=visual.window_size,
            patch_size=visual.patch_size,
        )
        tokens = super().to_tokens(model, inputs, patches)
        raster = torch.empty_like(tokens)
        raster[window.to(tokens.device)] = tokens
        return raster


class WindowedClips(Clips, Windowed):
    """Its clips."""


class Qwen25VL(Windowed, QwenVL):
    """Qwen2.5-VL."""

    model_types: ClassVar[Sequence[str]] = ("qwen2_5_vl",)
    video: Medium | None = WindowedClips()


class Kimi(Family):
    """Kimi-K2.5: frames averaged, then patches merged; the projector sees a row for each token."""

    model_types: ClassVar[Sequence[str]] = ("kimi_k25",)
    projector = "mm_projector"
    projector_sees_tokens = True

    def layouts(self, model: nn.Module, inputs: Inputs, sizes: Sequence[int]) -> list[Layout]:
        high, wide = self._kernel(model)
        grids = grids_of(inputs, self.grids)
        return [Layout(((1, h // high, w // wide),)) for _, h, w in grids]

    def to_tokens(self, model: nn.Module, inputs: Inputs, patches: Tensor) -> Tensor:
        grids: list[Grid] = grids_of(inputs, self.grids)
        size = self._kernel(model)[0]
        return torch.cat(
            [
                block_mean(part.reshape(t, h * w, -1), h, w, size).mean(dim=0)
                for part, (t, h, w) in zip(grid_split(patches, grids), grids, strict=True)
            ]
        )

    def _kernel(self, model: nn.Module) -> tuple[int, int]:
        tower: Any = self.module(model, self.tower)
        high, wide = tower.merge_kernel_size
        return int(high), int(wide)
