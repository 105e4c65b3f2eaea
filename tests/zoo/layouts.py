"""How families turn images and clips into pixels and placeholders, where several do it alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from .base import Corner, Image, Kind, VideoEntry, ZooEntry, flat, patch_at, pixels
from .parts import CLOSE, END, OPEN, START

Grid = tuple[int, int, int]

GRIDS: dict[Kind, Grid] = {
    "small": (1, 4, 6),
    "square": (1, 12, 12),
    "wide": (1, 8, 16),
    "tall": (1, 16, 6),
}
"""Patches per image (t, h, w); four patches become one visual token."""

CLIPS: dict[Kind, Grid] = {
    "small": (1, 4, 6),
    "square": (2, 8, 8),
    "wide": (3, 4, 8),
    "tall": (3, 8, 4),
}
"""Patches per clip: pairs of frames, rows, columns."""

TILES: dict[Kind, tuple[int, int]] = {
    "small": (1, 1),
    "square": (2, 2),
    "wide": (1, 2),
    "tall": (3, 1),
}
"""Rows and columns of tiles; where there is more than one, the whole image is shown too."""


def squares(images: Sequence[Image], side: int, part: object = None) -> Tensor:
    """One square a picture, `(images, 3, side, side)`."""
    return torch.stack([pixels(image, 3, side, side, part=part) for image in images])


def sized(
    images: Sequence[Image], grids: Sequence[Sequence[int]], least: int = 0
) -> dict[str, Any]:
    """Images of 4x4 pixels a patch, padded on the right and below to the largest, and sizes."""
    sizes = torch.tensor(grids) * 4
    values = torch.zeros(len(images), 3, *sizes.amax(dim=0).clamp(min=least).tolist())
    for value, image, (height, width) in zip(values, images, sizes.tolist(), strict=True):
        value[:, :height, :width] = pixels(image, 3, height, width)
    return {"pixel_values": values, "image_sizes": sizes}


def timed(frames: int, run: Sequence[int]) -> list[int]:
    """The time of each frame, and a run of ids after it."""
    return [token for frame in range(frames) for token in (20 + frame, *run)]


class SquareEntry(ZooEntry):
    """Every image is one square, with one number of visual tokens."""

    side = 24
    tokens = 36

    def counts(self, model: PreTrainedModel, image: Image, alone: bool = True) -> int:
        return self.tokens

    def visual_inputs(
        self, model: PreTrainedModel, rows: Sequence[Sequence[Image]]
    ) -> dict[str, Any]:
        return {"pixel_values": squares(flat(rows), self.side)}


class FramesEntry(VideoEntry):
    """Every clip is one number of frames, each of them a square."""

    side = 16
    frames = 3
    frame_tokens = 4

    def clip_counts(self, model: PreTrainedModel, clip: Image) -> int:
        return self.frames * self.frame_tokens

    def clip_inputs(
        self, model: PreTrainedModel, rows: Sequence[Sequence[Image]]
    ) -> dict[str, Any]:
        shape = (self.frames, 3, self.side, self.side)
        values = [pixels(clip, *shape, part="clip") for clip in flat(rows)]
        return {"pixel_values_videos": torch.stack(values)}


# ---- tiles ---------------------------------------------------------------------------------


def tiles(image: Image) -> int:
    """Number of tiles, the whole image among them."""
    number = prod(TILES[image.kind])
    return number + (number > 1)


def tile_pixels(images: Sequence[Image]) -> Tensor:
    return torch.cat([pixels(image, tiles(image), 3, 32, 32) for image in images])


class TileEntry(ZooEntry):
    """Tiles of 32x32 pixels and 16 tokens, the whole image last, all in one run."""

    wrap = ((OPEN,), (CLOSE,))

    def counts(self, model: PreTrainedModel, image: Image, alone: bool = True) -> int:
        return 16 * tiles(image)

    def visual_inputs(
        self, model: PreTrainedModel, rows: Sequence[Sequence[Image]]
    ) -> dict[str, Any]:
        return {"pixel_values": tile_pixels(flat(rows))}


class ViewsEntry(ZooEntry):
    """The whole image, and the crops of a large one in a tensor of their own."""

    feature_arguments = ("pixel_values", "pixel_values_local", "num_local_patches")
    view, crop = 64, 48
    """Sides in pixels of the whole image and of a crop."""

    def local(self, image: Image) -> int:
        """Number of crops beside the whole image."""
        return tiles(image) - 1

    def visual_inputs(
        self, model: PreTrainedModel, rows: Sequence[Sequence[Image]]
    ) -> dict[str, Any]:
        images, shape = flat(rows), (3, self.crop, self.crop)
        numbers = [self.local(image) for image in images]
        found: dict[str, Any] = {
            "pixel_values": squares(images, self.view),
            "num_local_patches": torch.tensor(numbers),
        }
        if any(numbers):
            crops = zip(images, numbers, strict=True)
            crops = [pixels(image, number, *shape, part="crops") for image, number in crops]
            found["pixel_values_local"] = torch.cat(crops)
        return found

    def shown(self, inputs: Mapping[str, Any], clips: bool) -> str:
        """Crops come before the image."""
        return "pixel_values_local" if "pixel_values_local" in inputs else "pixel_values"


# ---- grids of patches ----------------------------------------------------------------------


class GridEntry(ZooEntry):
    """Images of different shapes."""

    merge = 4
    """Patches that make a visual token."""

    def grid(self, image: Image) -> Grid:
        """Patches of an image (t, h, w)."""
        return GRIDS[image.kind]

    def counts(self, model: PreTrainedModel, image: Image, alone: bool = True) -> int:
        return prod(self.grid(image)) // self.merge


class PackedEntry(GridEntry):
    """Patches of all images in one sequence, their grids beside them."""

    wrap = ((START,), (END,))
    bos = False
    feature_arguments = ("pixel_values", "image_grid_thw")
    patch: tuple[int, ...] = (3 * 2 * 4 * 4,)
    """Shape of a patch."""
    group = 2
    """Patches that make a token stand together, so many by so many; 1: in raster order."""
    typed = True
    """Whether the processor says which tokens are of images and which of clips."""

    def token_inputs(self, model: PreTrainedModel, ids: Tensor, mask: Tensor) -> dict[str, Any]:
        types = (ids == self.image_token_id(model)).int()
        return {"mm_token_type_ids": types} if self.typed else {}

    def visual_inputs(
        self, model: PreTrainedModel, rows: Sequence[Sequence[Image]]
    ) -> dict[str, Any]:
        images = flat(rows)
        values = [pixels(image, prod(self.grid(image)), *self.patch) for image in images]
        grids = torch.tensor([self.grid(image) for image in images])
        return {"pixel_values": torch.cat(values), "image_grid_thw": grids}

    def paint(self, values: Tensor, inputs: Mapping[str, Any], corner: Corner, clips: bool) -> None:
        grid = inputs["video_grid_thw" if clips else "image_grid_thw"][0]
        values[patch_at(corner, grid, self.group)] += 3.0


class ClipEntry(PackedEntry, VideoEntry):
    """The same for clips."""

    clip_arguments = ("pixel_values_videos", "video_grid_thw")

    def token_inputs(self, model: PreTrainedModel, ids: Tensor, mask: Tensor) -> dict[str, Any]:
        clip = self.is_clip(model, ids)
        image = (ids == self.image_token_id(model)) & ~clip
        return {"mm_token_type_ids": image.int() + 2 * clip.int()} if self.typed else {}

    def clip_grids(self, clip: Image) -> list[Grid]:
        """Patches that the encoder is shown, of each part of a clip that has a grid of its own."""
        return [CLIPS[clip.kind]]

    def clip_counts(self, model: PreTrainedModel, clip: Image) -> int:
        return prod(CLIPS[clip.kind]) // 4

    def clip_inputs(
        self, model: PreTrainedModel, rows: Sequence[Sequence[Image]]
    ) -> dict[str, Any]:
        clips = [(clip, self.clip_grids(clip)) for clip in flat(rows)]
        values = [
            pixels(clip, sum(map(prod, grids)), *self.patch, part="clip") for clip, grids in clips
        ]
        grids = torch.tensor([grid for _, grids in clips for grid in grids])
        return {"pixel_values_videos": torch.cat(values), "video_grid_thw": grids}


class StampedEntry(ClipEntry):
    """A run of placeholders for each pair of frames, after the time that it shows."""

    clip_traits: Mapping[str, Any] = {"gap_tokens": True}

    def clip_ids(self, model: PreTrainedModel, clip: Image) -> list[int]:
        frames, high, wide = CLIPS[clip.kind]
        run = [START, *[int(model.config.video_token_id)] * (high * wide // 4), END]
        return timed(frames, run)
