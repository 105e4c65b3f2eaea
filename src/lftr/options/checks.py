"""Checks of method options, one line each, all with the same message."""

from __future__ import annotations

from numbers import Integral, Real

from ..values.errors import ArgumentError


def one_of(name: str, value: object, allowed: tuple[str, ...]) -> None:
    """Require ``value`` to be one of ``allowed``."""
    if value not in allowed:
        raise ArgumentError.of(name, value, ", ".join(map(repr, allowed)))


def between(name: str, value: object, low: float, high: float = float("inf")) -> None:
    """Require a real number in ``[low, high]``."""
    if isinstance(value, bool) or not isinstance(value, Real) or not low <= float(value) <= high:
        raise ArgumentError.of(name, value, f"a number in [{low}, {high}]")


def whole(name: str, value: object, low: int, high: int | None = None) -> None:
    """Require a whole number of at least ``low`` and at most ``high``."""
    if (
        isinstance(value, bool)
        or not isinstance(value, Integral)
        or int(value) < low
        or (high is not None and int(value) > high)
    ):
        upper = "" if high is None else f" and <= {high}"
        raise ArgumentError.of(name, value, f"a whole number >= {low}{upper}")
