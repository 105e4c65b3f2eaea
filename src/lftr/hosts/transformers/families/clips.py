"""LLaVA's clips: every frame encoded alone as one square, pooled or not, and put end to end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ....values.errors import UnsupportedModelError
from ...layout import Layout
from ..api import Model
from .layout import Inputs, square_side
from .medium import Medium, VideoNames


class FrameByFrame(VideoNames, Medium):
    """The common part: clips ``(clips, frames, c, h, w)`` of one length."""

    # tokens that follow the frames of a clip
    closing: ClassVar[int] = 0
    # tokens that precede the patches of each frame
    leading: ClassVar[int] = 0

    def views(self, model: Model, inputs: Inputs, sizes: Sequence[int]) -> list[int]:
        clips, frames = self.pixels_of(inputs).shape[:2]
        return [frames] * clips

    def entries(self, model: Model, inputs: Inputs, features: Any) -> list[int]:
        clips = len(self.pixels_of(inputs))
        return [math.prod(features.shape[:2]) // clips] * clips

    def layouts(self, model: Model, inputs: Inputs, sizes: Sequence[int]) -> list[Layout]:
        frames = self.pixels_of(inputs).shape[1]
        layouts = []
        for size in sizes:
            frame = (size - self.closing) // frames
            side = math.isqrt(frame - self.leading)
            marks = torch.zeros(size, dtype=torch.bool)
            marks[: size - self.closing].view(frames, frame)[:, : self.leading] = True
            marks[size - self.closing :] = True
            apart = marks if bool(marks.any()) else None
            layouts.append(Layout(((frames, side, side),), apart))
        return layouts

    def pool(self, model: Model, patches: Tensor) -> Tensor:
        """Pool maps ``(frames, P, channels)`` as the model pools features."""
        return patches

    def to_tokens(self, model: Model, inputs: Inputs, patches: Tensor) -> Tensor:
        tokens = nn.functional.pad(self.pool(model, patches), (0, 0, self.leading, 0))
        clips = tokens.reshape(len(self.pixels_of(inputs)), -1, tokens.shape[-1])
        return nn.functional.pad(clips, (0, 0, 0, self.closing)).flatten(0, 1)


class OnevisionClips(FrameByFrame):
    """LLaVA-OneVision: frames shrunk to half their side, one newline token at the end."""

    closing = 1

    def pool(self, model: Model, patches: Tensor) -> Tensor:
        pooled: Tensor = model.base_model.apply_pooling(patches)
        return pooled


class NextClips(FrameByFrame):
    """LLaVA-NeXT-Video: blocks of patches pooled to one token before the projector."""

    projector_sees_tokens = True

    def entries(self, model: Model, inputs: Inputs, features: Any) -> list[int]:
        if not isinstance(features, Tensor):
            raise UnsupportedModelError(
                "clips of LLaVA-NeXT-Video before transformers 5.20, whose encoder returns them "
                "frame by frame: pip install --upgrade transformers"
            )
        return super().entries(model, inputs, features)

    def pool(self, model: Model, patches: Tensor) -> Tensor:
        side, stride = square_side(patches), int(model.config.spatial_pool_stride)
        maps = patches.mT.unflatten(2, (side, side))
        return nn.functional.avg_pool2d(maps, stride).flatten(2).mT


class VideoLlavaClips(FrameByFrame):
    """Video-LLaVA: the class token of every frame goes to the language model too.

    It has no place in the grid, so it counts among the separators.
    """

    tower = "video_tower"
    projector_sees_tokens = True
    leading = 1
