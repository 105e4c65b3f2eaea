"""Families whose image passes a Q-Former, or enters by cross-attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from .base import Family


class Blip(Family):
    """BLIP-2 and InstructBLIP: 32 queries of a Q-Former stand for the image."""

    model_types: ClassVar[Sequence[str]] = ("blip-2", "instructblip")
    kind = "qformer"
    tower = "vision_model"
    projector = "language_projection"
    default_positions = "compact"


class Mllama(Family):
    """Llama 3.2 Vision: one placeholder an image, vision states in cross-attention layers."""

    model_types: ClassVar[Sequence[str]] = ("mllama",)
    kind = "cross_attention"
    tower = "vision_model"
