"""Qwen-VL, GLM-V and Kimi: images at their own size, packed, patches merged two by two."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ....values.tokens import Grid
from ...layout import Layout
from ..api import Model
from .base import Family
from .layout import Inputs, block_mean, grid_split, grids_of, resize_pixels
from .medium import Medium, VideoNames
from .windows import InWindows


class Packed(Medium):
    """Patches of all images or clips in one sequence, grouped by the token that they make.

    A clip's grid counts pairs of frames, which share their patches.
    """

    tower = "visual"
    projector = "visual.merger"
    # whether patches are in raster order, not grouped by token
    raster: ClassVar[bool] = False

    def merge(self, model: Model) -> int:
        """Patches along the side of a token."""
        tower: Any = self.module(model, self.tower)
        return int(tower.spatial_merge_size)

    def layouts(self, model: Model, inputs: Inputs, sizes: Sequence[int]) -> list[Layout]:
        side = self.merge(model)
        grids = grids_of(inputs, self.grids)
        return [Layout(((t, h // side, w // side),)) for t, h, w in grids]

    def to_tokens(self, model: Model, inputs: Inputs, patches: Tensor) -> Tensor:
        side = self.merge(model)
        if not self.raster:
            flat = patches.flatten(0, 1)
            return flat.reshape(-1, side**2, flat.shape[-1]).mean(dim=1)
        grids = grids_of(inputs, self.grids)
        parts = zip(grid_split(patches, grids), grids, strict=True)
        frames = [(part[0].unflatten(0, (t, h * w)), h, w) for part, (t, h, w) in parts]
        return torch.cat([block_mean(one, h, w, side).flatten(0, 1) for one, h, w in frames])

    def resized(self, model: Model, inputs: Inputs, grids: Sequence[Grid]) -> list[Inputs]:
        side = self.merge(model)
        before = grids_of(inputs, self.grids)
        rows = self.pixels_of(inputs).split([t * h * w for t, h, w in before])
        size = model.config.vision_config.patch_size
        arguments: list[Inputs] = []
        for patches, grid, (_, high, wide) in zip(rows, before, grids, strict=True):
            small = (grid[0], high * side, wide * side)
            images = resize_pixels(
                self.images(model, patches, grid), (small[1] * size, small[2] * size)
            )
            arguments.append(
                {
                    **inputs,
                    self.pixels[0]: self.patches(model, images, small),
                    self.grids: torch.tensor([small]),
                }
            )
        return arguments

    def images(self, model: Model, patches: Tensor, grid: Grid) -> Tensor:
        """Assemble flattened patches to images ``(frames, c, h, w)``."""
        t, h, w = grid
        side, (size, depth) = self._group(model), _patch(model)
        split = (t, h // side, w // side, side, side, -1, depth, size, size)
        x = patches.reshape(split).permute(0, 6, 5, 1, 3, 7, 2, 4, 8)
        return x.reshape(t * depth, -1, h * size, w * size)

    def patches(self, model: Model, images: Tensor, grid: Grid) -> Tensor:
        """Cut images into flattened patches, the inverse of `images`."""
        t, h, w = grid
        side, (size, depth) = self._group(model), _patch(model)
        split = (t, depth, -1, h // side, side, size, w // side, side, size)
        x = images.reshape(split).permute(0, 3, 6, 4, 7, 2, 1, 5, 8)
        return x.reshape(t * h * w, -1)

    def _group(self, model: Model) -> int:
        return 1 if self.raster else self.merge(model)


def _patch(model: Model) -> tuple[int, int]:
    """Return how many pixels and frames a patch spans."""
    config = model.config.vision_config
    return int(config.patch_size), int(getattr(config, "temporal_patch_size", 1))


class PackedClips(VideoNames, Packed):
    """Their clips."""


class QwenVL(Packed, Family):
    """Qwen-VL and similar models; from Qwen3-VL on, each pair of frames has its own run."""

    model_types: ClassVar[Sequence[str]] = (
        "qwen2_vl",
        "qwen3_vl",
        "qwen3_vl_moe",
        "qwen3_5",
        "qwen3_5_moe",
        "qwen4_exp",
        "cohere_compass",
        "cosmos3_omni",
    )
    video: Medium | None = PackedClips()


class Convolved(Packed):
    """GLM-4V: a convolution merges the patches before the merger sees them.

    Images and clips have the same placeholder; those of a clip stand between marks of their own.
    """

    projector = "visual.post_layernorm"

    def placeholders(self, model: Model, input_ids: Tensor) -> Tensor:
        begun = input_ids.eq(model.config.video_start_token_id).cumsum(dim=1)
        ended = input_ids.eq(model.config.video_end_token_id).cumsum(dim=1)
        in_clip = begun > ended
        return input_ids.eq(model.config.image_token_id) & (in_clip == (self.name == "video"))


class ConvolvedClips(VideoNames, Convolved):
    """Their clips."""


class Glm4V(Convolved, QwenVL):
    """The family of GLM-4V, GLM-4.6V, GLM-OCR and GLM-GA."""

    model_types: ClassVar[Sequence[str]] = ("glm4v", "glm4v_moe", "glm46v", "glm_ocr", "glmga")
    video: Medium | None = ConvolvedClips()
    one_medium = True


class Glm5Next(Glm4V):
    """GLM-5 Next, which distinguishes the placeholders of images and clips in one call."""

    model_types: ClassVar[Sequence[str]] = ("glm5_next",)
    one_medium = False


class Windowed(InWindows, Packed):
    """Qwen2.5-VL: the tower sorts the tokens, groups of patches, by window."""

    def full_layers(self, model: Model) -> Sequence[int]:
        tower: Any = self.module(model, self.tower)
        return tower.fullatt_block_indexes  # type: ignore[no-any-return]

    def to_tokens(self, model: Model, inputs: Inputs, patches: Tensor) -> Tensor:
        return self.in_raster(model, inputs, super().to_tokens(model, inputs, patches))


class WindowedClips(VideoNames, Windowed):
    """Clips of the class above."""


class Qwen25VL(Windowed, QwenVL):
    """Qwen2.5-VL."""

    model_types: ClassVar[Sequence[str]] = ("qwen2_5_vl",)
    video: Medium | None = WindowedClips()


class Convoluted(Packed):
    """LFM3-VL: every second encoder layer is a convolution; the projector merges patches."""

    tower = "vision_tower"
    projector = "multi_modal_projector"


class ConvolutedClips(VideoNames, Convoluted):
    """Clips of the class above."""


class Lfm3VL(Convoluted, Family):
    """The family of LFM3-VL."""

    model_types: ClassVar[Sequence[str]] = ("lfm3_vl",)
    video: Medium | None = ConvolutedClips()


class Kimi(Family):
    """Kimi-K2.5: frames averaged, then patches merged; the projector sees a row for each token."""

    model_types: ClassVar[Sequence[str]] = ("kimi_k25",)
    projector = "mm_projector"
    projector_sees_tokens = True

    def layouts(self, model: Model, inputs: Inputs, sizes: Sequence[int]) -> list[Layout]:
        high, wide = self._kernel(model)
        grids = grids_of(inputs, self.grids)
        return [Layout(((1, h // high, w // wide),)) for _, h, w in grids]

    def to_tokens(self, model: Model, inputs: Inputs, patches: Tensor) -> Tensor:
        grids: list[Grid] = grids_of(inputs, self.grids)
        size = self._kernel(model)[0]
        return torch.cat(
            [
                block_mean(part.reshape(t, h * w, -1), h, w, size).mean(dim=0)
                for part, (t, h, w) in zip(grid_split(patches, grids), grids, strict=True)
            ]
        )

    def _kernel(self, model: Model) -> tuple[int, int]:
        tower: Any = self.module(model, self.tower)
        high, wide = tower.merge_kernel_size
        return int(high), int(wide)


class Thinker(Family):
    """The common part of Qwen-Omni's thinkers, which also take audio."""

    placed_by = ("feature_attention_mask", "audio_feature_lengths", "use_audio_in_video")

    def language_model(self, model: Model) -> nn.Module:
        base = model.base_model  # before transformers 5.21 the decoder is a part of the base model
        return base.language_model if hasattr(base, "language_model") else base.model  # type: ignore[no-any-return]


class Qwen25OmniThinker(Thinker, Qwen25VL):
    """The thinker of Qwen2.5-Omni."""

    model_types: ClassVar[Sequence[str]] = ("qwen2_5_omni_thinker",)


class Qwen3OmniThinker(Thinker, QwenVL):
    """The thinker of Qwen3-Omni."""

    model_types: ClassVar[Sequence[str]] = ("qwen3_omni_moe_thinker",)
