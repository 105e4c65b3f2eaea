"""Packed patches, each of one frame: Cosmos 3 Edge, ERNIE 4.5 VL, PaddleOCR-VL, HunYuan-VL, Hy4."""

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
from .layout import Inputs, grids_of
from .medium import Medium, VideoNames
from .qwen import Packed


class Single(Packed):
    """The common part: the encoder's configuration says how many patches make a token."""

    def merge(self, model: Model) -> int:
        return int(model.config.vision_config.spatial_merge_size)


class ChannelsLast(Single):
    """Cosmos 3 Edge: a flattened patch holds its pixels, channels last."""

    projector = "projector"

    def images(self, model: Model, patches: Tensor, grid: Grid) -> Tensor:
        channels = int(model.config.vision_config.num_channels)
        pixels = patches.reshape(len(patches), -1, channels)
        return super().images(model, pixels.mT.flatten(1), grid)

    def patches(self, model: Model, images: Tensor, grid: Grid) -> Tensor:
        planes = super().patches(model, images, grid)
        return planes.reshape(len(planes), images.shape[1], -1).mT.flatten(1)


class ChannelsLastClips(VideoNames, ChannelsLast):
    """Clips: each frame has its own run of placeholders."""


class Cosmos3Edge(ChannelsLast, Family):
    """The family of Cosmos 3 Edge."""

    model_types: ClassVar[Sequence[str]] = ("cosmos3_edge",)
    video: Medium | None = ChannelsLastClips()


class Resampled(Single):
    """ERNIE 4.5 VL: a resampler merges patches to tokens."""

    tower = "vision_tower"
    projector = "resampler_model"


class ResampledClips(VideoNames, Resampled):
    """Clips: a token is made of the same patches of two frames."""

    def layouts(self, model: Model, inputs: Inputs, sizes: Sequence[int]) -> list[Layout]:
        layouts = super().layouts(model, inputs, sizes)
        pair = self._pair(model)
        return [Layout(tuple((t // pair, h, w) for t, h, w in one.tiles or ())) for one in layouts]

    def to_tokens(self, model: Model, inputs: Inputs, patches: Tensor) -> Tensor:
        tokens = super().to_tokens(model, inputs, patches)
        side, pair = self.merge(model), self._pair(model)
        grids = [(t, h // side, w // side) for t, h, w in grids_of(inputs, self.grids)]
        clips = tokens.split([t * h * w for t, h, w in grids])
        pairs = [
            one.reshape(-1, pair, h * w, one.shape[-1])
            for one, (_, h, w) in zip(clips, grids, strict=True)
        ]
        return torch.cat([one.mean(dim=1).flatten(0, 1) for one in pairs])

    def _pair(self, model: Model) -> int:
        return int(model.config.vision_config.temporal_merge_size)


class Ernie45VLMoe(Resampled, Family):
    """The family of ERNIE 4.5 VL."""

    model_types: ClassVar[Sequence[str]] = ("ernie4_5_vl_moe",)
    video: Medium | None = ResampledClips()


class PaddleOCRVL(Single, Family):
    """PaddleOCR-VL: unflattened patches in raster order; the projector groups them."""

    model_types: ClassVar[Sequence[str]] = ("paddleocr_vl",)
    projector = "projector"
    raster = True

    def patches(self, model: Model, images: Tensor, grid: Grid) -> Tensor:
        size = int(model.config.vision_config.patch_size)
        return super().patches(model, images, grid).reshape(-1, images.shape[1], size, size)


class Lined(Single):
    """Hy4-VL: patches in raster order; a newline token follows every row of tokens."""

    tower = "vision_tower"
    projector = "vision_tower.patch_merger"
    raster = True
    # number of tokens before the first row and after the last one
    ends: ClassVar[tuple[int, int]] = (0, 0)

    def entries(self, model: Model, inputs: Inputs, features: Any) -> list[int]:
        return [t * h * (w + 1) + sum(self.ends) for t, h, w in self._cells(model, inputs)]

    def layouts(self, model: Model, inputs: Inputs, sizes: Sequence[int]) -> list[Layout]:
        return [
            Layout((grid,), self._in_token_order(torch.zeros(grid), 1.0).bool())
            for grid in self._cells(model, inputs)
        ]

    def to_tokens(self, model: Model, inputs: Inputs, patches: Tensor) -> Tensor:
        tokens = super().to_tokens(model, inputs, patches)
        grids = self._cells(model, inputs)
        items = zip(tokens.split([t * h * w for t, h, w in grids]), grids, strict=True)
        return torch.cat([self._in_token_order(one.unflatten(0, grid)) for one, grid in items])

    def _cells(self, model: Model, inputs: Inputs) -> list[Grid]:
        side = self.merge(model)
        return [(t, h // side, w // side) for t, h, w in grids_of(inputs, self.grids)]

    def _in_token_order(self, cells: Tensor, fill: float = 0.0) -> Tensor:
        """Flatten ``(t, h, w, ...)`` to the order of the tokens, with ``fill`` for separators."""
        maps = cells.reshape(*cells.shape[:3], -1)
        lines = nn.functional.pad(maps, (0, 0, 0, 1), value=fill).flatten(0, 2)
        tokens = nn.functional.pad(lines, (0, 0, *self.ends), value=fill)
        return tokens.reshape(-1, *cells.shape[3:])

    def resized(self, model: Model, inputs: Inputs, grids: Sequence[Grid]) -> list[Inputs]:
        return Medium.resized(self, model, inputs, grids)  # a grid of tokens has no newlines


class LinedClips(VideoNames, Lined):
    """Clips: the rows of all frames in sequence."""


class HyV4VL(Lined, Family):
    """The family of Hy4-VL."""

    model_types: ClassVar[Sequence[str]] = ("hy_v4_vl",)
    video: Medium | None = LinedClips()


class HunYuanVL(Lined, Family):
    """HunYuan-VL: the encoder puts a begin and an end token around the rows of an image.

    RoPE has four axes: the column of the prompt, the column and the row within the image, and the
    image's number, which the plain model counts over the batch. Tokens that are not between begin
    and end have the column of the prompt on all axes.
    """

    model_types: ClassVar[Sequence[str]] = ("hunyuan_vl",)
    ends = (1, 1)

    def following(self, positions: Tensor, real: Tensor) -> Tensor:
        return super().following(positions[0], real)

    def continued(
        self, model: Model, positions: Tensor, following: Tensor, earlier: Tensor
    ) -> Tensor:
        visual = (positions != positions[:1]).any(dim=0)
        if not bool(visual.any()):
            return positions + following
        if len(earlier) > 1:
            raise UnsupportedModelError(
                "HunYuan-VL numbers images over the batch, row by row, so a new image in a later "
                "turn would renumber earlier images of the following rows; continue each row in "
                "a call of its own"
            )
        placeholders = self.placeholders(model, earlier)
        before = nn.functional.pad(placeholders, (1, 0))[:, :-1]
        images = int((placeholders & ~before).sum())
        moved = torch.cat([positions[:1] + following, positions[1:-1], positions[-1:] + images])
        return torch.where(visual, moved, positions + following)
