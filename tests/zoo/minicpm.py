"""MiniCPM-V: an overview of every image, then its slices, on Qwen3.5's text model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel, Qwen3_5TextConfig

from .base import NEWLINE, VOCAB, Corner, Image, Kind, Traits, VideoEntry, flat, patch_at, pixels
from .parts import END, IMAGE, START, VIDEO, interleaved, language, tower

SLICE, SLICED, NUMBER, NUMBERED = range(VOCAB - 8, VOCAB - 4)

Size = tuple[int, int]
Cut = tuple[Size, Size, Sequence[Size]]
"""Tokens of the overview (h, w), how many slices (rows, columns), tokens of every slice (h, w)."""


CUTS: dict[Kind, Cut] = {
    "small": ((2, 3), (0, 0), ()),
    "square": ((2, 2), (2, 2), [(2, 2)] * 4),
    "wide": ((1, 3), (1, 3), [(2, 2)] * 3),
    "tall": ((3, 1), (2, 1), [(2, 1)] * 2),
}


CLIP_CUTS: dict[Kind, tuple[int, Cut]] = {
    "small": (1, ((2, 3), (0, 0), ())),
    "square": (2, ((2, 2), (1, 2), [(2, 2)] * 2)),
    "wide": (3, ((1, 3), (0, 0), ())),
    "tall": (3, ((3, 2), (0, 0), ())),
}
"""Frames of a clip, and how each is cut."""


LATER = "generate places what follows a cache as text, crops too"


def tokens(size: Size) -> int:
    return size[0] * size[1]


class MiniCPMV46(VideoEntry):
    """A tower that merges 2x2 patches after its first layer, and 2x2 of those at its end.

    A crop is one entry of the container, whatever its size. A clip is one such image a frame.
    """

    name = "minicpmv4_6"
    traits = Traits(
        container="list",
        unit="part",
        ragged=True,
        tiles=True,
        gap_tokens=True,
        stateful=True,
        tolerance=5e-5,
        upstream={"assisted": "refused: its state cannot be rolled back"},
    )
    architecture = "MiniCPMV4_6ForConditionalGeneration"
    bos = False
    feature_arguments = ("pixel_values", "target_sizes")
    clip_arguments = ("pixel_values_videos", "target_sizes_videos")
    merge = 4
    """Patches of a visual token on each side."""
    cuts = CUTS
    numbered_clips = True

    def parts(self) -> dict[str, Any]:
        """The arguments that all MiniCPM-V configurations take."""
        vision = tower(image_size=32)
        text = language(
            rope_parameters=interleaved(2, 1, 1) | {"partial_rotary_factor": 0.5},
            head_dim=16,
            linear_key_head_dim=8,
            linear_value_head_dim=8,
            linear_num_key_heads=2,
            linear_num_value_heads=4,
        )
        return {
            "vision_config": vision,
            "text_config": Qwen3_5TextConfig(**text),
            "insert_layer_id": 0,
            "image_token_id": IMAGE,
            "video_token_id": VIDEO,
            "tie_word_embeddings": False,
        }

    def config(self) -> PreTrainedConfig:
        return self.made(**self.parts())

    def cut_ids(self, cut: Cut, placeholder: int) -> list[int]:
        """The overview between its marks, every slice between its own, a line per row of slices."""
        overview, (rows, columns), slices = cut
        ids = [START, *[placeholder] * tokens(overview), END]
        for index in range(rows * columns):
            if index and index % columns == 0:
                ids.append(NEWLINE)
            ids += [SLICE, *[placeholder] * tokens(slices[index]), SLICED]
        return ids

    def crops(self, cut: Cut, image: Image, part: str) -> tuple[list[Tensor], list[list[int]]]:
        """Patches of an image's crops `(3, 4, 4 * patches)`, and their grids."""
        overview, _, slices = cut
        grids = [[side * self.merge for side in size] for size in (overview, *slices)]
        values = [
            pixels(image, 3, 4, 4 * high * wide, part=(part, place))
            for place, (high, wide) in enumerate(grids)
        ]
        return values, grids

    def packed(
        self, crops: Sequence[tuple[list[Tensor], list[list[int]]]]
    ) -> tuple[Tensor, Tensor]:
        values = [value for found, _ in crops for value in found]
        grids = [grid for _, found in crops for grid in found]
        return torch.cat(values, dim=-1)[None], torch.tensor(grids, dtype=torch.int32)

    def sizes(self, model: PreTrainedModel, image: Image, alone: bool = True) -> list[int]:
        overview, _, slices = self.cuts[image.kind]
        return [tokens(size) for size in (overview, *slices)]

    def counts(self, model: PreTrainedModel, image: Image, alone: bool = True) -> int:
        return sum(self.sizes(model, image, alone))

    def image_ids(self, model: PreTrainedModel, image: Image, alone: bool = True) -> list[int]:
        return [NUMBER, 20, NUMBERED, *self.cut_ids(self.cuts[image.kind], IMAGE)]

    def visual_inputs(
        self, model: PreTrainedModel, rows: Sequence[Sequence[Image]]
    ) -> dict[str, Any]:
        crops = [self.crops(self.cuts[image.kind], image, "image") for image in flat(rows)]
        values, grids = self.packed(crops)
        return {"pixel_values": values, "target_sizes": grids}

    def paint(self, values: Tensor, inputs: Mapping[str, Any], corner: Corner, clips: bool) -> None:
        """Patches in raster order, side by side."""
        grid = inputs["target_sizes_videos" if clips else "target_sizes"][0]
        place = patch_at(corner, (1, *grid))
        values[0, :, :, 4 * place : 4 * (place + 1)] += 3.0

    def clip_sizes(self, model: PreTrainedModel, clip: Image) -> list[int]:
        frames, (overview, _, slices) = CLIP_CUTS[clip.kind]
        return [tokens(size) for size in (overview, *slices)] * frames

    def clip_counts(self, model: PreTrainedModel, clip: Image) -> int:
        return sum(self.clip_sizes(model, clip))

    def clip_ids(self, model: PreTrainedModel, clip: Image) -> list[int]:
        frames, cut = CLIP_CUTS[clip.kind]
        number = [NUMBER, 20, NUMBERED] if self.numbered_clips else []
        return number + self.cut_ids(cut, VIDEO) * frames

    def clip_inputs(
        self, model: PreTrainedModel, rows: Sequence[Sequence[Image]]
    ) -> dict[str, Any]:
        crops = [
            self.crops(CLIP_CUTS[clip.kind][1], clip, f"frame {frame}")
            for clip in flat(rows)
            for frame in range(CLIP_CUTS[clip.kind][0])
        ]
        values, grids = self.packed(crops)
        return {"pixel_values_videos": values, "target_sizes_videos": grids}


class MiniCPMV47(MiniCPMV46):
    """The same with M-RoPE: overview and slices share the canvas that the slices tile.

    Marks and line breaks have places on the canvas too.
    """

    name = "minicpmv4_7"
    traits = replace(
        MiniCPMV46.traits,
        mrope=True,
        upstream={**MiniCPMV46.traits.upstream, "second_turn": LATER, "mrope_second_turn": LATER},
    )
    architecture = "MiniCPMV4_7ForConditionalGeneration"
    numbered_clips = False

    def config(self) -> PreTrainedConfig:
        return self.made(
            **self.parts(),
            image_start_id=START,
            image_end_id=END,
            slice_start_id=SLICE,
            slice_end_id=SLICED,
            newline_id=NEWLINE,
        )

    def token_inputs(self, model: PreTrainedModel, ids: Tensor, mask: Tensor) -> dict[str, Any]:
        return {"mm_token_type_ids": (ids == IMAGE).int() + 2 * (ids == VIDEO).int()}


class MiniCPMOcr(MiniCPMV46):
    """Without the merge inside the tower; slices of one image may differ in size."""

    name = "minicpm_ocr"
    architecture = "MiniCPMOcrForConditionalGeneration"
    since = (5, 21)
    merge = 2
    cuts = CUTS | {"wide": ((1, 3), (1, 3), [(2, 2), (1, 2), (2, 1)])}

    def config(self) -> PreTrainedConfig:
        return self.made(**self.parts())
