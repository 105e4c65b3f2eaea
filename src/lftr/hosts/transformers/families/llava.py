"""LLaVA-1.5 and its kin: one image, one square of tokens (or Pixtral's own shape)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ....values.tokens import Grid
from ...layout import Layout
from ..api import Model
from .base import Family
from .clips import VideoLlavaClips
from .layout import Inputs, resize_pixels

_STRATEGY = "vision_feature_select_strategy"


class Llava(Family):
    """LLaVA and VipLLaVA; with a Pixtral tower, images keep their own shape."""

    model_types: ClassVar[Sequence[str]] = ("llava", "vipllava")
    projector_sees_tokens = True

    def shows_class_token(self, model: Model, inputs: Inputs) -> bool:
        """Whether the language model receives the class token, before the patches.

        It has no place in the grid, so it counts as a separator.
        """
        strategy = inputs.get(_STRATEGY) or getattr(model.config, _STRATEGY, None)
        return strategy == "full" and self.cls_place(model) is not None

    def to_tokens(self, model: Model, inputs: Inputs, patches: Tensor) -> Tensor:
        first = int(self.shows_class_token(model, inputs))
        return nn.functional.pad(patches, (0, 0, first, 0)).flatten(0, 1)

    def layouts(self, model: Model, inputs: Inputs, sizes: Sequence[int]) -> list[Layout]:
        image_sizes = inputs.get("image_sizes")
        if self.shows_class_token(model, inputs):
            patches = [Layout.square(size - 1).tiles for size in sizes]
            marks = [torch.arange(size) == 0 for size in sizes]
            return [Layout(*one) for one in zip(patches, marks, strict=True)]
        if image_sizes is None:
            return super().layouts(model, inputs, sizes)
        patch: Any = self.module(model, self.tower).patch_size
        grids = [(1, int(h) // patch, int(w) // patch) for h, w in torch.as_tensor(image_sizes)]
        return [Layout((grid,)) for grid in grids]

    def merging_layers(self, model: Model) -> Sequence[nn.Module]:
        parts = self.module(model, self.tower).modules()
        layers = list(next((part for part in parts if isinstance(part, nn.ModuleList)), ()))
        names = ("self_attn", "layer_norm2", "mlp")
        if not layers or not all(hasattr(layers[0], name) for name in names):
            return super().merging_layers(model)  # Pixtral: rotary positions, any shape
        return layers[: self.attention_layer(model, len(layers)) + 1]

    def resized(self, model: Model, inputs: Inputs, grids: Sequence[Grid]) -> list[Inputs]:
        if inputs.get("image_sizes") is not None:
            return super().resized(model, inputs, grids)
        patch = model.config.vision_config.patch_size
        return [
            {
                **inputs,
                "pixel_values": resize_pixels(image, (h * patch, w * patch)),
                "interpolate_pos_encoding": True,
            }
            for image, (_, h, w) in zip(inputs["pixel_values"].split(1), grids, strict=True)
        ]


class VideoLlava(Family):
    """Video-LLaVA: a tower for images, another for clips."""

    model_types: ClassVar[Sequence[str]] = ("video_llava",)
    tower = "image_tower"
    video = VideoLlavaClips()


class PaliGemma(Llava):
    """PaliGemma: SigLIP, one square of tokens."""

    model_types: ClassVar[Sequence[str]] = ("paligemma",)
