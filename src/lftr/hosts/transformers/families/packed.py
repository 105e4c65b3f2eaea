"""Models that pack patches as Qwen-VL does, with one-dimensional positions for the text."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from ....values.errors import UnsupportedModelError
from ...layout import Layout
from ..api import Model
from .base import Family
from .layout import Inputs, block_mean, grid_split, grids_of
from .medium import Medium, VideoNames
from .qwen import Packed, Windowed, WindowedClips
from .windows import InWindows


class Exaone45(Windowed, Family):
    """EXAONE 4.5, with the encoder of Qwen2.5-VL."""

    model_types: ClassVar[Sequence[str]] = ("exaone4_5",)
    video: Medium | None = WindowedClips()


class HyperClova(Windowed):
    """HyperCLOVA X Vision 2: the encoder of Qwen2.5-VL under another name, then a linear layer."""

    tower = "vision_model"
    projector = "vision_model.merger"


class HyperClovaClips(VideoNames, HyperClova):
    """Clips of the class above."""


class HyperClovaX(HyperClova, Family):
    """The family of HyperCLOVA X Vision 2."""

    model_types: ClassVar[Sequence[str]] = ("hyperclovax_vision_v2",)
    video: Medium | None = HyperClovaClips()


class Dots(Packed):
    """dots3-note: each patch belongs to one frame."""

    tower = "vision_tower"
    projector = "vision_tower.merger"


class DotsClips(VideoNames, Dots):
    """Clips of the class above."""


class Dots3Note(Dots, Family):
    """The family of dots3-note."""

    model_types: ClassVar[Sequence[str]] = ("dots3_note",)
    video: Medium | None = DotsClips()

    def first_layer_to_reduce(self, model: Model) -> int:
        """Return 1: the indexers do not count columns of the cache."""
        return 1


class MiniMax(Packed):
    """MiniMax M3: a long clip is split into parts, each an item with its own grid."""

    tower = "vision_tower"
    projector = "multi_modal_projector"

    def merge(self, model: Any) -> int:
        """Patches along the side of a token; older releases say it in the configuration alone."""
        return int(model.config.vision_config.spatial_merge_size)


class MiniMaxClips(VideoNames, MiniMax):
    """Clips of the class above."""


class MiniMaxM3(MiniMax, Family):
    """The family of MiniMax M3.

    Its sparse layers compute the block of a query from its position and that of a key from its
    column. These agree only if positions have no gaps and the row has no padding on its left.
    """

    model_types: ClassVar[Sequence[str]] = ("minimax_m3_vl",)
    video: Medium | None = MiniMaxClips()

    def fitted(self, model: Model) -> Self:
        fitted = copy.copy(self)
        if self._sparse(model):
            fitted.positions_are_columns = True
            fitted.compact_only = (
                "its layers take a token's position for its column in the cache, which gaps break"
            )
        return fitted

    def _sparse(self, model: Model) -> bool:
        return "minimax_m3_sparse" in model.config.get_text_config().layer_types


class Muse(InWindows):
    """Muse: the tower sorts the patches by window; the projector merges them two by two."""

    tower = "vision_tower"
    projector = "vision_adapter"
    projector_sees_tokens = True

    def layouts(self, model: Model, inputs: Inputs, sizes: Sequence[int]) -> list[Layout]:
        side = self._tower(model).merge_size
        grids = grids_of(inputs, self.grids)
        return [Layout(((t, h // side, w // side),)) for t, h, w in grids]

    def to_tokens(self, model: Model, inputs: Inputs, patches: Tensor) -> Tensor:
        raster = self.in_raster(model, inputs, patches[0]).unsqueeze(0)
        grids, side = grids_of(inputs, self.grids), self._tower(model).merge_size
        frames = [
            block_mean(part.reshape(t, h * w, -1), h, w, side).flatten(0, 1)
            for part, (t, h, w) in zip(grid_split(raster, grids), grids, strict=True)
        ]
        return torch.cat(frames)

    def _tower(self, model: Model) -> Any:
        return self.module(model, self.tower)

    def full_layers(self, model: Model) -> list[int]:
        kinds = self._tower(model).config.layer_types
        return [i for i, kind in enumerate(kinds) if kind == "full_attention"]


class MuseClips(VideoNames, Muse):
    """Clips of the class above."""


class MuseFamily(Muse, Family):
    """The family of Muse Glimmer and Muse Spark."""

    model_types: ClassVar[Sequence[str]] = ("muse_glimmer", "muse_spark")
    video: Medium | None = MuseClips()


class Halved(Medium):
    """VideoLLaMA 3: the encoder averages blocks of patches, whose size is an argument."""

    tower = "vision_model"
    projector = "projector"
    sides: ClassVar[str] = "image_merge_sizes"

    def layouts(self, model: Model, inputs: Inputs, sizes: Sequence[int]) -> list[Layout]:
        return [
            Layout(((t, h // side, w // side),))
            for (t, h, w), side in zip(
                grids_of(inputs, self.grids), self._sides(inputs), strict=True
            )
        ]

    def to_tokens(self, model: Model, inputs: Inputs, patches: Tensor) -> Tensor:
        grids = grids_of(inputs, self.grids)
        if patches.shape[1] != sum(t * h * w for t, h, w in grids):
            return patches.flatten(0, 1)  # the projector's input already has a row per token
        parts = zip(grid_split(patches, grids), self._sides(inputs), strict=True)
        return torch.cat([x[0].unflatten(0, (-1, side**2)).mean(dim=1) for x, side in parts])

    def _sides(self, inputs: Inputs) -> list[int]:
        return [int(side) for side in torch.as_tensor(inputs[self.sides]).tolist()]


class HalvedClips(VideoNames, Halved):
    """Clips: the prompt omits tokens of a frame that did not change since the frame before."""

    sides = "video_merge_sizes"
    sent = "video_compression_mask"

    def layouts(self, model: Model, inputs: Inputs, sizes: Sequence[int]) -> list[Layout]:
        whole = super().layouts(model, inputs, sizes)
        full = [t * h * w for layout in whole for t, h, w in layout.tiles or ()]
        # the remaining tokens of a clip form no grid
        return [
            layout if size == all_of_it else Layout()
            for layout, size, all_of_it in zip(whole, sizes, full, strict=True)
        ]


class VideoLlama3(Halved, Family):
    """The family of VideoLLaMA 3."""

    model_types: ClassVar[Sequence[str]] = ("video_llama_3",)
    video: Medium | None = HalvedClips()


class Radio(Medium):
    """Nemotron 3 Omni: class and register tokens of RADIO precede the patches of every image.

    Images and clips have the same placeholder, and the prompt does not tell which it is, so the
    plain model takes images or clips in one call, not both.
    """

    tower = "vision_model"
    projector = "multi_modal_projector"
    projector_sees_tokens = True
    grids = "image_grid_hw"
    shares_placeholder = True

    def placeholders(self, model: Model, input_ids: Tensor) -> Tensor:
        return torch.eq(input_ids, model.config.image_token_id)

    def patches(self, model: Model, inputs: Inputs) -> list[tuple[int, int]]:
        """Return the rows and columns of patches of each sequence that the encoder reads."""
        return [(int(h), int(w)) for h, w in torch.as_tensor(inputs[self.grids]).tolist()]

    def layouts(self, model: Model, inputs: Inputs, sizes: Sequence[int]) -> list[Layout]:
        side = self._side(model)
        return [Layout(((1, h // side, w // side),)) for h, w in self.patches(model, inputs)]

    def to_tokens(self, model: Model, inputs: Inputs, patches: Tensor) -> Tensor:
        lead = model.base_model.vision_model.config.num_summary_tokens
        grids = self.patches(model, inputs)
        rows = patches.flatten(0, 1).split([lead + h * w for h, w in grids])
        side = self._side(model)
        parts = zip(rows, grids, strict=True)
        return torch.cat([block_mean(x[None, lead:], h, w, side)[0] for x, (h, w) in parts])

    def _side(self, model: Model) -> int:
        return round(1 / float(model.config.downsample_ratio))


class RadioClips(VideoNames, Radio):
    """Clips: the encoder reads pairs of frames as one picture each, or the frames of one clip."""

    def patches(self, model: Model, inputs: Inputs) -> list[tuple[int, int]]:
        high, wide = self.pixels_of(inputs).shape[-2:]
        size = model.base_model.vision_model.patch_size
        clips, pairs = self._pairs(model, inputs)
        return [(high // size, wide // size)] * (clips * pairs)

    def entries(self, model: Model, inputs: Inputs, features: Any) -> list[int]:
        clips, _ = self._pairs(model, inputs)
        return [sum(math.prod(entry.shape[:-1]) for entry in features) // clips] * clips

    def layouts(self, model: Model, inputs: Inputs, sizes: Sequence[int]) -> list[Layout]:
        _, pairs = self._pairs(model, inputs)
        (_, high, wide), *_ = super().layouts(model, inputs, sizes)[0].tiles or ()
        return [Layout(((pairs, high, wide),))] * len(sizes)

    def views(self, model: Model, inputs: Inputs, sizes: Sequence[int]) -> list[int]:
        return [self._pairs(model, inputs)[1]] * len(sizes)

    def _pairs(self, model: Model, inputs: Inputs) -> tuple[int, int]:
        """Return the number of clips of a call, and of pairs of frames of each."""
        clips, pairs, *rest = self.pixels_of(inputs).shape
        if len(rest) == 3:
            return clips, pairs
        return 1, -(-clips // int(model.config.video_temporal_patch_size))


class NemotronOmni(Radio, Family):
    """The family of Nemotron 3 Omni."""

    model_types: ClassVar[Sequence[str]] = ("nemotron_h_omni",)
    video: Medium | None = RadioClips()
    one_medium = True

    def check_together(self, model: Model, media: Sequence[Medium]) -> None:
        super().check_together(model, media)
        if getattr(model.config, "video_pruning_rate", 0) and media and media[0].name == "video":
            raise UnsupportedModelError(
                f"video_pruning_rate = {model.config.video_pruning_rate}; the model drops tokens "
                "of videos itself: set model.video_pruning_rate and the configuration's to 0"
            )
