"""Molmo 2: overlapping crops, tokens pooled from the patches that a tensor names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from .base import VOCAB, Corner, Image, Kind, Traits, VideoEntry, flat, patch_at, pixels
from .parts import language, tower

PATCH, COLUMN, HIGH, LOW, FRAME, HIGH_END, FRAME_END = range(VOCAB, VOCAB + 7)
"""Ids beyond the output head's: the embedding has rows of its own for them."""

TILINGS: dict[Kind, tuple[int, int]] = {
    "small": (1, 1),
    "square": (2, 2),
    "wide": (1, 2),
    "tall": (3, 1),
}
FRAMES: dict[Kind, int] = {"small": 1, "square": 2, "wide": 3, "tall": 4}


def pooled(patches: Tensor, side: int) -> Tensor:
    """Blocks of `side` x `side` patches, `-1` beyond the border: (rows, columns, side²)."""
    rows, columns = (-size % side for size in patches.shape)
    around = (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)
    padded = torch.nn.functional.pad(patches, around, value=-1)
    blocks = padded.unfold(0, side, side).unfold(1, side, side)
    return blocks.flatten(2)


class Molmo2(VideoEntry):
    """A low-resolution view, then overlapping crops as one picture; a column token ends every row.

    Blocks of patches are pooled by attention. Visual tokens are added to the placeholders'
    embeddings. All visual tokens of a row see each other, its marks and column tokens too.
    Images and clips share their placeholder: a call takes the one or the other.
    """

    name = "molmo2"
    mixes = False
    clip_traits: Mapping[str, Any] = {"tiles": False}
    traits = Traits(
        container="tuple",
        ragged=True,
        tiles=True,
        gap_tokens=True,
        bidirectional=True,
        one_block=True,
        upstream={
            "chunked_prefill": "visual tokens of one chunk do not see those of the next",
            "second_turn": "visual tokens of the first turn do not see those of the second",
        },
    )
    architecture = "Molmo2ForConditionalGeneration"
    since = (5, 21)
    feature_arguments = ("pixel_values", "image_token_pooling", "image_grids")
    clip_arguments = ("pixel_values_videos", "video_token_pooling", "video_grids")
    side = 5
    """Patches of a crop on each side, of which one overlaps at every inner border."""

    def config(self) -> PreTrainedConfig:
        vision = tower(
            num_key_value_heads=2, head_dim=16, image_size=[4 * self.side, 4 * self.side]
        )
        adapter = {
            "vision_feature_layer": [2, 0],
            "hidden_size": 32,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "intermediate_size": 64,
            "text_hidden_size": 48,
        }
        return self.made(
            vision_config=vision,
            adapter_config=adapter,
            text_config=language(head_dim=12, additional_vocab_size=8),
            image_patch_id=PATCH,
            image_start_token_id=HIGH,
            low_res_image_start_token_id=LOW,
            image_end_token_id=HIGH_END,
            frame_start_token_id=FRAME,
            frame_end_token_id=FRAME_END,
        )

    def token_inputs(self, model: PreTrainedModel, ids: Tensor, mask: Tensor) -> dict[str, Any]:
        return {"mm_token_type_ids": (ids >= PATCH).int()}

    def views(self, image: Image) -> tuple[Tensor, Tensor]:
        """The patches that each visual token is pooled from: of the low view, of the crops."""
        low = torch.arange(self.side**2).view(self.side, self.side)
        down, across = TILINGS[image.kind]
        crops = torch.arange(down * across * self.side**2)
        crops = crops.view(down, across, self.side, self.side) + self.side**2
        rows = [
            torch.cat([self.inner(crop, (y, down), (x, across)) for x, crop in enumerate(row)], 1)
            for y, row in enumerate(crops)
        ]
        return pooled(low, 2), pooled(torch.cat(rows), 2)

    def inner(self, crop: Tensor, row: tuple[int, int], column: tuple[int, int]) -> Tensor:
        """A crop without what its neighbours show."""
        sides = [
            slice(int(place > 0), self.side - int(place < number - 1))
            for place, number in (row, column)
        ]
        return crop[sides[0], sides[1]]

    def counts(self, model: PreTrainedModel, image: Image, alone: bool = True) -> int:
        return sum(prod(view.shape[:2]) for view in self.views(image))

    def image_ids(self, model: PreTrainedModel, image: Image, alone: bool = True) -> list[int]:
        low, high = self.views(image)
        return [
            LOW,
            *[*[PATCH] * low.shape[1], COLUMN] * low.shape[0],
            HIGH_END,
            HIGH,
            *[*[PATCH] * high.shape[1], COLUMN] * high.shape[0],
            HIGH_END,
        ]

    def visual_inputs(
        self, model: PreTrainedModel, rows: Sequence[Sequence[Image]]
    ) -> dict[str, Any]:
        values, pools, grids = [], [], []
        patches = 0
        for image in flat(rows):
            crops = 1 + prod(TILINGS[image.kind])
            values.append(pixels(image, crops, self.side**2, 3 * 4 * 4))
            views = self.views(image)
            grids.append([size for view in views for size in view.shape[:2]])
            for view in views:
                flat_view = view.flatten(0, 1)
                pools.append(torch.where(flat_view >= 0, flat_view + patches, flat_view))
            patches += crops * self.side**2
        return {
            "pixel_values": torch.cat(values),
            "image_token_pooling": torch.cat(pools),
            "image_grids": torch.tensor(grids),
            "image_num_crops": torch.tensor([len(value) for value in values]),
        }

    def paint(self, values: Tensor, inputs: Mapping[str, Any], corner: Corner, clips: bool) -> None:
        """The low view of an image comes first; a frame of a clip is one crop."""
        frame, down, right = corner
        first = frame % int(inputs["video_grids"][0, 0]) if clips else 0
        values[first, patch_at((0, down, right), (1, self.side, self.side))] += 3.0

    def is_clip(self, model: PreTrainedModel, ids: Tensor) -> Tensor:
        begun, ended = (ids == FRAME).cumsum(dim=-1), (ids == FRAME_END).cumsum(dim=-1)
        return (ids == PATCH) & (begun > ended)

    def clip_counts(self, model: PreTrainedModel, clip: Image) -> int:
        return FRAMES[clip.kind] * 4

    def clip_ids(self, model: PreTrainedModel, clip: Image) -> list[int]:
        """For each frame its time and a run without column tokens."""
        frames = range(FRAMES[clip.kind])
        return [token for at in frames for token in (20 + at, FRAME, *[PATCH] * 4, FRAME_END)]

    def clip_inputs(
        self, model: PreTrainedModel, rows: Sequence[Sequence[Image]]
    ) -> dict[str, Any]:
        clips = flat(rows)
        frame = pooled(torch.arange(self.side**2).view(self.side, self.side), 3).flatten(0, 1)
        numbers = [FRAMES[clip.kind] for clip in clips]
        values = [
            pixels(clip, number, self.side**2, 3 * 4 * 4, part="clip")
            for clip, number in zip(clips, numbers, strict=True)
        ]
        pools = [
            torch.where(frame >= 0, frame + at * self.side**2, frame) for at in range(sum(numbers))
        ]
        return {
            "pixel_values_videos": torch.cat(values),
            "video_token_pooling": torch.cat(pools),
            "video_grids": torch.tensor([[number, 2, 2] for number in numbers]),
        }
