"""Families that show an image as one square of tokens, under other names than LLaVA's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from .base import Family


class DeepseekVL(Family):
    """DeepSeek-VL and Janus: SigLIP, one token a patch.

    Tokens of the hybrid also contain SAM's features on the same square; evidence is SigLIP's.
    """

    model_types: ClassVar[Sequence[str]] = ("deepseek_vl", "deepseek_vl_hybrid", "janus")
    tower = "vision_model"
    projector = "aligner"


class FastVlm(Family):
    """FastVLM: a convolutional encoder without attention; a token per place of its map."""

    model_types: ClassVar[Sequence[str]] = ("fast_vlm",)
