"""Layers before which a model can lose its image."""

from __future__ import annotations

from typing import Any

from ...methods.inside.schedules import Exit
from ...methods.inside.static_exit import StaticExit
from ...reducing import reduce
from ...values.errors import ArgumentError


def exit_layers(model: Any) -> list[int]:
    """Return the layers before which the visual tokens of ``model`` can be dropped, ascending.

    Raises
    ------
    LftrError
        If the model cannot be reduced inside its language model.
    """
    depth = int(model.config.get_text_config().num_hidden_layers)
    first = next((layer for layer in range(1, depth) if _can_exit(model, layer)), depth)
    if first == depth:
        reduce(model, StaticExit(Exit(depth - 1))).remove()  # raises, with the reason
    return list(range(first, depth))


def _can_exit(model: Any, layer: int) -> bool:
    try:
        reduce(model, StaticExit(Exit(layer))).remove()
    except ArgumentError:  # before the last layer that adds features of the image
        return False
    return True
