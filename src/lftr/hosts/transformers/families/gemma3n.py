"""Gemma 3n: a convolutional encoder; each place of its output map is a token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from ....values.errors import UnsupportedModelError
from ..api import Model
from .base import Family


class Gemma3n(Family):
    """Gemma 3n's images. The projector's input has a row for each token."""

    model_types: ClassVar[Sequence[str]] = ("gemma3n",)
    projector = "embed_vision"
    projector_sees_tokens = True

    def first_layer_to_reduce(self, model: Model) -> int:
        raise UnsupportedModelError(
            f"layers of {type(model).__name__} carry several streams of states (AltUp) and "
            "reuse keys of earlier layers, so no tokens can be dropped between layers: choose a "
            "method that decides before the language model"
        )
