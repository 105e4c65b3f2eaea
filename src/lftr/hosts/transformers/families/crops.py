"""Families that cut an image into crops and shrink each crop's patches to a square of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor

from ...layout import Layout
from ..api import Model, encoder_of
from .clips import FrameByFrame
from .layout import Inputs, block_mean, square_side
from .tiles import Shuffled


class GotOcr2(Shuffled):
    """GOT-OCR2 and PP-Chart2Table: a SAM encoder; crops or pages in one run are one item.

    Two strided convolutions make a token of overlapping patches, here treated as a block of 4x4.
    """

    model_types: ClassVar[Sequence[str]] = ("got_ocr2", "pp_chart2table")
    run_is_item = True

    def block(self, model: Model, side: int) -> int:
        return 4

    def to_tokens(self, model: Model, inputs: Inputs, patches: Tensor) -> Tensor:
        return super().to_tokens(model, inputs, patches.flatten(2).mT)  # the projector reads maps


class Ovis2(Shuffled):
    """Ovis2: the whole image and each crop are items; separators between them are text."""

    model_types: ClassVar[Sequence[str]] = ("ovis2",)
    projector = "vision_tower.head_linear"
    projector_sees_tokens = True

    def block(self, model: Model, side: int) -> int:
        return int(model.config.vision_config.hidden_stride)


class PerceptionClips(FrameByFrame):
    """PerceptionLM's clips: the image encoder receives the frames as crops."""

    def encoder(self, model: Model) -> Any:
        encode = encoder_of(model, "image")

        def frames(pixel_values_videos: Tensor, **options: Any) -> Any:
            return encode(pixel_values=pixel_values_videos, **options)

        return frames

    def cls_place(self, model: Model) -> int | None:
        return None

    def pool(self, model: Model, patches: Tensor) -> Tensor:
        side = square_side(patches)
        return block_mean(patches, side, side, int(model.config.projector_pooling_ratio))


class PerceptionLM(Shuffled):
    """PerceptionLM: a thumbnail and the crops of an image are one item.

    Its encoder comes from timm, and lftr cannot read its attention.
    """

    model_types: ClassVar[Sequence[str]] = ("perception_lm",)
    video = PerceptionClips()

    def block(self, model: Model, side: int) -> int:
        return int(model.config.projector_pooling_ratio)

    def cls_place(self, model: Model) -> int | None:
        return None  # the projector receives no class token

    def entries(self, model: Model, inputs: Inputs, features: Any) -> list[int]:
        images, crops = self.pixels_of(inputs).shape[:2]
        return [crops * features.shape[1]] * images

    def layouts(self, model: Model, inputs: Inputs, sizes: Sequence[int]) -> list[Layout]:
        crops = self.pixels_of(inputs).shape[1]
        return [Layout((Layout.square(size // crops).tiles or ()) * crops) for size in sizes]

    def views(self, model: Model, inputs: Inputs, sizes: Sequence[int]) -> list[int]:
        return [self.pixels_of(inputs).shape[1]] * len(sizes)
