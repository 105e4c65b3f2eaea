"""Models that pack patches as Qwen-VL does, with one-dimensional positions for the text."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from ....errors import UnsupportedModelError
from .base import Family
from .layout import Inputs, Layout, block_mean, grid_split, grids_of
from .medium import Clips, Medium
from .qwen import Packed, Windowed, WindowedClips


class Exaone45(Windowed, Family):
    """EXAONE 4.5, with the tower of Qwen2.5-VL."""

    model_types: ClassVar[Sequence[str]] = ("exaone4_5",)
    video: Medium | None = WindowedClips()


class HyperClova(Windowed):
    """HyperCLOVA X Vision 2: the same tower under another name, a linear layer behind it."""

    tower = "vision_model"
    projector = "vision_model.merger"


class HyperClovaClips(Clips, HyperClova):
    """Its clips."""


class HyperClovaX(HyperClova, Family):
    """HyperCLOVA X Vision 2 as a family."""

    model_types: ClassVar[Sequence[str]] = ("hyperclovax_vision_v2",)
    video: Medium | None = HyperClovaClips()


class Dots(Packed):
    """dots3-note: patches of single frames."""

    tower = "vision_tower"
    projector = "vision_tower.merger"


class DotsClips(Clips, Dots):
    """Its clips."""


class Dots3Note(Dots, Family):
    """dots3-note as a family."""

    model_types: ClassVar[Sequence[str]] = ("dots3_note",)
    video: Medium | None = DotsClips()

    def first_layer_to_reduce(self, model: nn.Module) -> int:
        """Its indexers score whatever keys a layer holds; nothing in them counts columns."""
        return 1


class MiniMax(Packed):
    """MiniMax M3: a long clip comes in parts, each an item with a grid of its own."""

    tower = "vision_tower"
    projector = "multi_modal_projector"

    def merge(self, model: Any) -> int:
        """Patches along the side of a token; older releases say it in the configuration alone."""
        return int(model.config.vision_config.spatial_merge_size)


class MiniMaxClips(Clips, MiniMax):
    """Its clips."""


class MiniMaxM3(MiniMax, Family):
    """MiniMax M3 as a family.

    Its sparse layers find a query's block of keys by its position and a key's by its column. The
    two agree only where a prompt has no gaps in its positions and no padding on its left.
    """

    model_types: ClassVar[Sequence[str]] = ("minimax_m3_vl",)
    video: Medium | None = MiniMaxClips()

    def fitted(self, model: Any) -> Self:
        own = copy.copy(self)
        if self._sparse(model):
            own.positions_are_columns = True
            own.default_positions = "compact"
        return own

    def _sparse(self, model: Any) -> bool:
        return "minimax_m3_sparse" in model.config.get_text_config().layer_types


class Muse(Medium):
    """Muse: patches in raster order, seen in window order, folded two by two after the tower."""

    tower = "vision_tower"
    projector = "vision_adapter"
    projector_sees_tokens = True

    def layouts(self, model: nn.Module, inputs: Inputs, sizes: Sequence[int]) -> list[Layout]:
        side = self._tower(model).merge_size
        grids = grids_of(inputs, self.grids)
        return [Layout(((t, h // side, w // side),)) for t, h, w in grids]

    def to_tokens(self, model: nn.Module, inputs: Inputs, patches: Tensor) -> Tensor:
        from transformers.vision_utils import get_vision_window_index

        tower = self._tower(model)
        window, _ = get_vision_window_index(
            torch.as_tensor(inputs[self.grids]),
            spatial_merge_size=tower.spatial_merge_size,
            window_size=tower.window_size,
            patch_size=tower.patch_size,
        )
        raster = torch.empty_like(patches)
        raster[:, window.to(patches.device)] = patches
        grids = grids_of(inputs, self.grids)
        frames = [
            block_mean(part.reshape(t, h * w, -1), h, w, tower.merge_size).flatten(0, 1)
            for part, (t, h, w) in zip(grid_split(raster, grids), grids, strict=True)
        ]
        return torch.cat(frames)

    def attention_layer(self, model: nn.Module, layers: int, inputs: Inputs | None = None) -> int:
        """Return the last layer with full attention; others see their own window alone."""
        return max(self._full(model))

    def shallow_layer(self, model: nn.Module, layers: int) -> int:
        """Return the last layer of the first half with full attention."""
        full = self._full(model)
        return max((i for i in full if i < layers // 2), default=min(full))

    def _tower(self, model: nn.Module) -> Any:
        return self.module(model, self.tower)

    def _full(self, model: nn.Module) -> list[int]:
        kinds = self._tower(model).config.layer_types
        return [i for i, kind in enumerate(kinds) if kind == "full_attention"]


class MuseClips(Clips, Muse):
    """Its clips."""


class MuseFamily(Muse, Family):
    """Muse Glimmer and Muse Spark."""

    model_types: ClassVar[Sequence[str]] = ("muse_glimmer", "muse_spark")
    video: Medium | None = MuseClips()


class Halved(Medium):
    """VideoLLaMA 3: blocks of patches averaged in the tower; how large they are is an argument."""

    tower = "vision_model"
    projector = "projector"
    sides: ClassVar[str] = "image_merge_sizes"

    def layouts(self, model: nn.Module, inputs: Inputs, sizes: Sequence[int]) -> list[Layout]:
        return [
            Layout(((t, h // side, w // side),))
            for (t, h, w), side in zip(
                grids_of(inputs, self.grids), self._sides(inputs), strict=True
            )
        ]

    def to_tokens(self, model: nn.Module, inputs: Inputs, patches: Tensor) -> Tensor:
        grids = grids_of(inputs, self.grids)
        if patches.shape[1] != sum(t * h * w for t, h, w in grids):
            return patches.flatten(0, 1)  # the projector's input is a row for each token
        parts = zip(grid_split(patches, grids), self._sides(inputs), strict=True)
        return torch.cat([x[0].unflatten(0, (-1, side**2)).mean(dim=1) for x, side in parts])

    def _sides(self, inputs: Inputs) -> list[int]:
        return [int(side) for side in torch.as_tensor(inputs[self.sides]).tolist()]


class HalvedClips(Clips, Halved):
    """Its clips. Of a frame, what is as it was in the frame before is left out of the prompt."""

    sides = "video_merge_sizes"
    sent = "video_compression_mask"

    def layouts(self, model: nn.Module, inputs: Inputs, sizes: Sequence[int]) -> list[Layout]:
        whole = super().layouts(model, inputs, sizes)
        full = [t * h * w for layout in whole for t, h, w in layout.tiles or ()]
        # what is left of a clip fills no grid
        return [
            layout if size == all_of_it else Layout()
            for layout, size, all_of_it in zip(whole, sizes, full, strict=True)
        ]


class VideoLlama3(Halved, Family):
    """VideoLLaMA 3."""

    model_types: ClassVar[Sequence[str]] = ("video_llama_3",)
    video: Medium | None = HalvedClips()


class Radio(Medium):
    """Nemotron 3 Omni: RADIO's class and register tokens stand before every image's patches.

    Images and clips have the same placeholder, and nothing in the prompt tells which they are; the
    plain model takes the one or the other.
    """

    tower = "vision_model"
    projector = "multi_modal_projector"
    projector_sees_tokens = True
    grids = "image_grid_hw"
    shares_placeholder = True

    def placeholders(self, model: Any, input_ids: Tensor) -> Tensor:
        return torch.eq(input_ids, model.config.image_token_id)

    def patches(self, model: Any, inputs: Inputs) -> list[tuple[int, int]]:
        """Rows and columns of patches of each sequence that the tower sees."""
        return [(int(h), int(w)) for h, w in torch.as_tensor(inputs[self.grids]).tolist()]

    def layouts(self, model: nn.Module, inputs: Inputs, sizes: Sequence[int]) -> list[Layout]:
        side = self._side(model)
        return [Layout(((1, h // side, w // side),)) for h, w in self.patches(model, inputs)]

    def to_tokens(self, model: Any, inputs: Inputs, patches: Tensor) -> Tensor:
        lead = model.base_model.vision_model.config.num_summary_tokens
        grids = self.patches(model, inputs)
        rows = patches.flatten(0, 1).split([lead + h * w for h, w in grids])
        side = self._side(model)
        parts = zip(rows, grids, strict=True)
        return torch.cat([block_mean(x[None, lead:], h, w, side)[0] for x, (h, w) in parts])

    def _side(self, model: Any) -> int:
        return round(1 / float(model.config.downsample_ratio))


class RadioClips(Clips, Radio):
    """Its clips, stacked: pairs of frames, each pair one picture; or the frames of one clip."""

    def patches(self, model: Any, inputs: Inputs) -> list[tuple[int, int]]:
        high, wide = self.pixels_of(inputs).shape[-2:]
        size = model.base_model.vision_model.patch_size
        clips, pairs = self._pairs(model, inputs)
        return [(high // size, wide // size)] * (clips * pairs)

    def entries(self, model: nn.Module, inputs: Inputs, features: Any) -> list[int]:
        clips, _ = self._pairs(model, inputs)
        return [sum(math.prod(entry.shape[:-1]) for entry in features) // clips] * clips

    def layouts(self, model: nn.Module, inputs: Inputs, sizes: Sequence[int]) -> list[Layout]:
        _, pairs = self._pairs(model, inputs)
        (_, high, wide), *_ = super().layouts(model, inputs, sizes)[0].tiles or ()
        return [Layout(((pairs, high, wide),))] * len(sizes)

    def views(self, model: nn.Module, inputs: Inputs, sizes: Sequence[int]) -> list[int]:
        return [self._pairs(model, inputs)[1]] * len(sizes)

    def _pairs(self, model: Any, inputs: Inputs) -> tuple[int, int]:
        """Clips of a call, and pairs of frames of each."""
        clips, pairs, *rest = self.pixels_of(inputs).shape
        if len(rest) == 3:
            return clips, pairs
        return 1, -(-clips // int(model.config.video_temporal_patch_size))


class NemotronOmni(Radio, Family):
    """Nemotron 3 Omni."""

    model_types: ClassVar[Sequence[str]] = ("nemotron_h_omni",)
    video: Medium | None = RadioClips()

    def check_together(self, model: Any, media: Sequence[Medium]) -> None:
        if len(media) > 1:
            raise UnsupportedModelError(
                f"{model.config.model_type} takes images or videos in one call, not both: they "
                "share a placeholder, and the model counts it for each"
            )
        if getattr(model.config, "video_pruning_rate", 0) and media and media[0].name == "video":
            raise UnsupportedModelError(
                f"video_pruning_rate = {model.config.video_pruning_rate}; the model drops tokens "
                "of videos itself: set model.video_pruning_rate and the configuration's to 0"
            )
