"""Families whose image passes a Q-Former, or enters by cross-attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from .base import Family
from .layout import Inputs


class Blip(Family):
    """BLIP-2 and InstructBLIP: 32 queries of a Q-Former stand for the image."""

    model_types: ClassVar[Sequence[str]] = ("blip-2", "instructblip")
    kind = "qformer"
    tower = "vision_model"
    projector = "language_projection"
    compact_only = (
        "the queries of its Q-Former have no place in the image, and its language model counts "
        "positions itself"
    )


class BlipClips(Blip):
    """InstructBLIP for clips: the Q-Former reads each frame separately."""

    model_types: ClassVar[Sequence[str]] = ("instructblipvideo",)
    name = "video"

    def frames(self, inputs: Inputs) -> int:
        return int(self.pixels_of(inputs).shape[1])


class Mllama(Family):
    """Llama 3.2 Vision: one placeholder an image, vision states in cross-attention layers."""

    model_types: ClassVar[Sequence[str]] = ("mllama",)
    kind = "cross_attention"
    tower = "vision_model"
