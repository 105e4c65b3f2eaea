"""Families whose images keep their aspect ratio: Pixtral's tower, Gemma 4, LFM2-VL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ....values.errors import UnsupportedModelError
from ....values.tokens import Grid
from ...layout import Layout
from ..api import Model
from .base import Family
from .layout import Inputs, block_mean, grid_split
from .medium import Medium, VideoNames


class Mistral3(Family):
    """Mistral 3: Pixtral patches of all images in one sequence, merged two by two."""

    model_types: ClassVar[Sequence[str]] = ("mistral3",)

    def _grids(self, model: Model, inputs: Inputs) -> list[Grid]:
        tower: Any = self.module(model, self.tower)
        sizes = torch.as_tensor(inputs["image_sizes"]).tolist()
        return [(1, int(h) // tower.patch_size, int(w) // tower.patch_size) for h, w in sizes]

    def layouts(self, model: Model, inputs: Inputs, sizes: Sequence[int]) -> list[Layout]:
        side = model.config.spatial_merge_size
        return [Layout(((1, h // side, w // side),)) for _, h, w in self._grids(model, inputs)]

    def to_tokens(self, model: Model, inputs: Inputs, patches: Tensor) -> Tensor:
        side = model.config.spatial_merge_size
        grids = self._grids(model, inputs)
        parts = zip(grid_split(patches, grids), grids, strict=True)
        return torch.cat([block_mean(part, h, w, side)[0] for part, (_, h, w) in parts])


class LightOnOcr(Mistral3):
    """LightOnOCR: Pixtral's encoder under another name."""

    model_types: ClassVar[Sequence[str]] = ("lighton_ocr",)
    tower = "vision_encoder"
    projector = "vision_projection"


class MistralLarge4(Mistral3):
    """Mistral Large 4: an indexer chooses keys, for its layer or also for later layers."""

    model_types: ClassVar[Sequence[str]] = ("mistral_large4",)

    def first_layer_to_reduce(self, model: Model) -> int:
        raise UnsupportedModelError(
            f"an indexer in each layer of {type(model).__name__} chooses keys, for that layer or "
            "also for later ones, so no tokens can be dropped between layers: choose a method that "
            "decides before the language model"
        )


class Placed(Medium):
    """Patches padded to one length, with their coordinates (x, y), by which they are pooled."""

    places: ClassVar[str] = "image_position_ids"

    def pooled(self, model: Model) -> int:
        """Return the patches along the side of a token."""
        return int(model.config.vision_config.pooling_kernel_size)

    def _views(self, model: Model, inputs: Inputs) -> list[tuple[Tensor, Tensor, Grid]]:
        """Return, for each image or frame, its real patches, the token of each, and its grid."""
        size = self.pooled(model)
        patches = []
        for positions in inputs[self.places].flatten(0, -3):
            real = (positions != -1).all(dim=-1).nonzero().squeeze(1)
            columns, rows = (positions[real] // size).unbind(-1)
            wide, high = int(columns.max()) + 1, int(rows.max()) + 1
            patches.append((real, rows * wide + columns, (1, high, wide)))
        return patches

    def layouts(self, model: Model, inputs: Inputs, sizes: Sequence[int]) -> list[Layout]:
        grids = iter([grid for _, _, grid in self._views(model, inputs)])
        layouts = []
        for frames in self.views(model, inputs, sizes):
            frame_grids = [next(grids) for _ in range(frames)]
            _, high, wide = frame_grids[0]
            layouts.append(Layout(((frames, high, wide),)))
        return layouts

    def to_tokens(self, model: Model, inputs: Inputs, patches: Tensor) -> Tensor:
        parts = []
        for rows, (real, token, (_, high, wide)) in zip(
            patches, self._views(model, inputs), strict=True
        ):
            total = rows.new_zeros(high * wide, rows.shape[-1])
            total.index_add_(0, token.to(rows.device), rows[real.to(rows.device)])
            parts.append(total * (high * wide / len(real)))
        return torch.cat(parts)


class PlacedClips(VideoNames, Placed):
    """Clips of images; before transformers 5.19 all clips have one number of frames."""

    places: ClassVar[str] = "video_position_ids"

    def views(self, model: Model, inputs: Inputs, sizes: Sequence[int]) -> list[int]:
        frames = inputs.get("num_frames_per_video")
        if frames is None:
            clips, frames = inputs[self.places].shape[:2]
            return [int(frames)] * int(clips)
        return [int(number) for number in frames]


class Gemma4(Placed, Family):
    """The family of Gemma 4."""

    model_types: ClassVar[Sequence[str]] = ("gemma4",)
    projector = "embed_vision"
    projector_sees_tokens = True

    def first_attention(self, model: Model) -> None:
        """Return None: its language model takes no embeddings without ids."""
        return


class DiffusionGemma(Gemma4):
    """DiffusionGemma: an encoder reads the prompt, a decoder denoises the answer."""

    model_types: ClassVar[Sequence[str]] = ("diffusion_gemma",)
    kind = "diffusion"
    tower = "encoder.vision_tower"
    projector = "encoder.embed_vision"

    def encoder(self, model: Model) -> Any:
        return model.base_model.encoder.get_image_features

    def language_model(self, model: Model) -> nn.Module:
        return self.module(model, "encoder.language_model")

    def entries(self, model: Model, inputs: Inputs, features: Any) -> list[int]:
        return [high * wide for _, _, (_, high, wide) in self._views(model, inputs)]


class Unpooled(Placed):
    """Gemma 4 without a vision transformer: a token is an embedded patch of pixels."""

    tower = "embed_vision"
    projector = "embed_vision.multimodal_embedder"

    def pooled(self, model: Model) -> int:
        return 1


class UnpooledClips(PlacedClips, Unpooled):
    """Clips of the class above."""


class Gemma4Unified(Unpooled, Family):
    """The family of Gemma 4 Unified."""

    model_types: ClassVar[Sequence[str]] = ("gemma4_unified",)
    video: Medium | None = UnpooledClips()


class Lfm2VL(Family):
    """LFM2-VL: each tile, and the whole image, is an item with its own grid."""

    model_types: ClassVar[Sequence[str]] = ("lfm2_vl",)
    projector = "vision_tower.post_layernorm"  # the projector's own input is rearranged

    def _grids(self, inputs: Inputs) -> list[tuple[int, int]]:
        return [(int(h), int(w)) for h, w in torch.as_tensor(inputs["spatial_shapes"]).tolist()]

    def layouts(self, model: Model, inputs: Inputs, sizes: Sequence[int]) -> list[Layout]:
        side = model.config.downsample_factor
        return [Layout(((1, h // side, w // side),)) for h, w in self._grids(inputs)]

    def to_tokens(self, model: Model, inputs: Inputs, patches: Tensor) -> Tensor:
        side = model.config.downsample_factor
        parts = zip(patches.split(1), self._grids(inputs), strict=True)
        return torch.cat([block_mean(part[:, : h * w], h, w, side)[0] for part, (h, w) in parts])
