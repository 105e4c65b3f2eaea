"""Families that show an image as one square of tokens, under other names than LLaVA's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from ....values.errors import UnsupportedModelError
from ..api import Model
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


class Gemma3n(Family):
    """Gemma 3n: as FastVLM. The projector's input has a row for each token."""

    model_types: ClassVar[Sequence[str]] = ("gemma3n",)
    projector = "embed_vision"
    projector_sees_tokens = True

    def first_layer_to_reduce(self, model: Model) -> int:
        raise UnsupportedModelError(
            f"layers of {type(model).__name__} carry several streams of states (AltUp) and "
            "reuse keys of earlier layers, so no tokens can be dropped between layers: choose a "
            "method that decides before the language model"
        )
