"""Gemma 3n: a convolutional tower whose map is the square of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from ....errors import UnsupportedModelError
from ..api import Model
from .base import Family


class Gemma3n(Family):
    """Gemma 3n, its images. The projector is shown a row of the map for each token."""

    model_types: ClassVar[Sequence[str]] = ("gemma3n",)
    projector = "embed_vision"
    projector_sees_tokens = True

    def first_layer_to_reduce(self, model: Model) -> int:
        raise UnsupportedModelError(
            f"layers of {type(model).__name__} pass on several streams of states (AltUp) and share "
            "the keys of earlier layers, so tokens cannot leave between them: choose a method that "
            "decides before the language model"
        )
