"""Checks of options that are layers or numbers of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...values.budget import Budget, Keep, parse_keep
from ...values.errors import ArgumentError

Layer = int | float


def several(name: str, values: object) -> tuple[Any, ...]:
    """Return a sequence as a tuple; raise an error for anything else."""
    if not isinstance(values, Sequence) or isinstance(values, str):
        raise ArgumentError.of(name, values, "a sequence of them")
    return tuple(values)


def check_layer(name: str, layer: object, beyond: bool = False) -> None:
    """Raise an error unless ``layer`` is a number from 1 on, or a share of the depth in (0, 1)."""
    if isinstance(layer, float):
        if 0.0 < layer < 1.0 or (beyond and layer == 1.0):
            return
    elif isinstance(layer, int) and not isinstance(layer, bool) and layer >= 1:
        return
    raise ArgumentError.of(
        name,
        layer,
        "a layer's number from 1 on (before the first layer, use a lftr.Method) or a share of the "
        "depth in (0, 1)",
    )


def layer_at(name: str, layer: Layer, depth: int, beyond: bool = False) -> int:
    """Return the number of a layer in a model of ``depth`` layers."""
    last = depth if beyond else depth - 1
    if isinstance(layer, float):
        return min(max(1, round(layer * depth)), last)
    if layer > last:
        raise ArgumentError.of(name, layer, f"a decoder layer of this model, 1 to {last}")
    return layer


def check_keep(name: str, keep: object) -> Keep:
    """Return a ratio or a count; raise an error for anything else, a budget included."""
    allowed = "a ratio in (0, 1] or a whole number >= 1"
    try:
        parsed = parse_keep(keep)
    except ArgumentError:
        raise ArgumentError.of(name, keep, allowed) from None
    if isinstance(parsed, Budget):
        raise ArgumentError.of(name, keep, allowed)
    return parsed
