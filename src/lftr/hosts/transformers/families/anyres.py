"""LLaVA-NeXT and similar models: a base view, tiles without their padding, newline tokens.

The layout comes from the model's own ``pack_image_features``, called on maps of coordinates and of
evidence instead of features. Padding, tiles, newlines and OneVision's bilinear resizing are
therefore exactly the model's.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

from ....values.tokens import Grid
from ...layout import Layout
from ..api import Model
from .base import Family
from .clips import NextClips, OnevisionClips
from .layout import Inputs, square_side


class LlavaNext(Family):
    """LLaVA-NeXT (1.6)."""

    model_types: ClassVar[Sequence[str]] = ("llava_next",)

    def tiles_of(self, model: Model, inputs: Inputs) -> list[int]:
        """Return how many views (base and tiles) each image is encoded as."""
        config = model.config
        return [
            image_size_to_num_patches(
                size, config.image_grid_pinpoints, config.vision_config.image_size
            )
            for size in inputs["image_sizes"]
        ]

    def views(self, model: Model, inputs: Inputs, sizes: Sequence[int]) -> list[int]:
        return self.tiles_of(model, inputs)

    def pack(self, model: Model, inputs: Inputs, views: Sequence[Tensor]) -> list[Tensor]:
        """Run the model's own packing on ``(tiles, P, channels)`` of each image; newlines are 0."""
        strategy = inputs.get("vision_feature_select_strategy")
        strategy = strategy or model.config.vision_feature_select_strategy
        packed, _ = model.base_model.pack_image_features(
            list(views),
            inputs["image_sizes"],
            vision_feature_select_strategy=strategy,
            image_newline=views[0].new_zeros(views[0].shape[-1]),
        )
        return list(packed)

    def to_tokens(self, model: Model, inputs: Inputs, patches: Tensor) -> Tensor:
        counts = self.tiles_of(model, inputs)
        return torch.cat(self.pack(model, inputs, patches[: sum(counts)].split(counts)))

    def side(self, model: Model) -> int:
        """Return the tokens along the side of a view, before packing."""
        config = model.config.vision_config
        return int(config.image_size // config.patch_size)

    def layouts(self, model: Model, inputs: Inputs, sizes: Sequence[int]) -> list[Layout]:
        side = self.side(model)
        counts = self.tiles_of(model, inputs)
        ones = [torch.ones(count, side * side, 1) for count in counts]
        marks = self.pack(model, inputs, ones)
        return [_layout(mark[:, 0], side) for mark in marks]


class LlavaNextVideo(LlavaNext):
    """LLaVA-NeXT-Video."""

    model_types: ClassVar[Sequence[str]] = ("llava_next_video",)
    video = NextClips()


class LlavaOnevision(LlavaNext):
    """LLaVA-OneVision; several images of a prompt are encoded as base views alone."""

    model_types: ClassVar[Sequence[str]] = ("llava_onevision",)
    video = OnevisionClips()

    def tiles_of(self, model: Model, inputs: Inputs) -> list[int]:
        counts = super().tiles_of(model, inputs)
        images = inputs.get("batch_num_images")
        if images is None:
            return counts
        single = [int(n) == 1 for n in images for _ in range(int(n))]
        return [count if alone else 1 for count, alone in zip(counts, single, strict=True)]

    def pack(self, model: Model, inputs: Inputs, views: Sequence[Tensor]) -> list[Tensor]:
        ratio = inputs.get("vision_aspect_ratio") or model.config.vision_aspect_ratio
        packed, _ = model.base_model.pack_image_features(
            list(views),
            inputs["image_sizes"],
            image_newline=views[0].new_zeros(views[0].shape[-1]),
            vision_aspect_ratio=ratio,
        )
        return list(packed)


class Granite4Vision(LlavaNext):
    """Granite 4 Vision: decoder layers add image features, and placeholders have no embeddings.

    Q-Formers reduce the patches of each view before packing. Each of several decoder layers adds
    its own features; methods see those that come first.
    """

    model_types: ClassVar[Sequence[str]] = ("granite4_vision",)
    projector = "layerwise_projectors.0"

    def features(self, output: Any) -> Any:
        return min(output.deepstack_features, key=lambda plane: plane[0])[1]

    def planes(self, output: Any) -> list[Any]:
        return [features for _, features in output.deepstack_features]

    def with_planes(self, output: Any, planes: Sequence[Any]) -> Any:
        layers = [layer for layer, _ in output.deepstack_features]
        return type(output)(
            **{**output, "deepstack_features": list(zip(layers, planes, strict=True))}
        )

    def pack(self, model: Model, inputs: Inputs, views: Sequence[Tensor]) -> list[Tensor]:
        strategy = inputs.get("vision_feature_select_strategy")
        return model.base_model.pack_image_features(  # type: ignore[no-any-return]
            list(views),
            inputs["image_sizes"],
            strategy or model.config.vision_feature_select_strategy,
            image_newline=views[0].new_zeros(views[0].shape[-1]),
        )

    def to_tokens(self, model: Model, inputs: Inputs, patches: Tensor) -> Tensor:
        side = square_side(patches)
        maps = patches.mT.unflatten(2, (side, side))
        pooled = nn.functional.adaptive_avg_pool2d(maps, self.side(model)).flatten(2).mT
        return super().to_tokens(model, inputs, pooled)

    def side(self, model: Model) -> int:
        return int(super().side(model) * Fraction(model.config.downsample_rate))

    def attention_layer(self, model: Model, layers: int, inputs: Inputs | None = None) -> int:
        read, _ = min(model.config.deepstack_layer_map, key=lambda pair: pair[1])
        return int(max(0, layers + read if read < 0 else read - 1))

    def first_layer_to_reduce(self, model: Model) -> int:
        """Return the last layer that receives features, which are added before it runs."""
        config = model.config
        layers = [
            *(layer for _, layer in config.deepstack_layer_map),
            *config.spatial_target_layers,
        ]
        return max(super().first_layer_to_reduce(model), *map(int, layers))


def _layout(mark: Tensor, side: int) -> Layout:
    """Read the tiles off a packed map that is 1 at patches and 0 at newlines.

    If an image is so thin that its tiles hold padding only, packing leaves newlines or nothing.
    """
    separator = mark == 0
    base: Grid = (1, side, side)
    rest = separator[side * side :]
    rows = int(rest.sum())
    if len(rest) == rows:  # a single view, with or without a closing newline; a strip
        return Layout((base,), separator if rows else None)
    if rows == 0:
        return Layout((base, (1, 1, len(rest))))
    return Layout((base, (1, rows, len(rest) // rows - 1)), separator)
