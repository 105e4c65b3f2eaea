"""Options of methods, merges and schedules as the command line spells them."""

from __future__ import annotations

import types
import typing
from collections.abc import Sequence
from dataclasses import InitVar
from typing import Any

from ..values.budget import parse_ratio
from ..values.errors import ArgumentError
from .calls import read_call
from .checks import hints_of
from .plain import from_plain, kind_of

_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


def parse_options(cls: type, options: Sequence[str], where: str = "--option") -> dict[str, Any]:
    """Read ``name=value`` as options of a class."""
    hints = hints_of(cls)
    values: dict[str, Any] = {}
    for option in options:
        key, separator, text = option.partition("=")
        if not separator:
            raise ArgumentError.of(where, option, "name=value")
        hint = hints.get(key.strip(), str)
        hint = hint.type if isinstance(hint, InitVar) else hint  # an argument that is no field
        values[key.strip()] = parse_value(key.strip(), text.strip(), hint)
    return values


def parse_value(name: str, text: str, hint: Any) -> object:
    """Read ``text`` as a value of the type ``hint``.

    Raises
    ------
    ArgumentError
        If it cannot be read so; the message names the option.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return parse_value(name, text, arguments[0])
    if origin in (typing.Union, types.UnionType):
        if type(None) in arguments and text.lower() == "none":
            return None
        for one in sorted(arguments, key=_narrowness):
            try:
                return parse_value(name, text, one)
            except ArgumentError:
                continue
        raise ArgumentError.of(name, text, f"a value of type {hint}")
    if origin is typing.Literal:
        return next((value for value in arguments if str(value) == text), text)
    if origin is tuple:
        inner = text[1:-1] if text.startswith("(") and text.endswith(")") else text
        parts = [part for part in inner.split(",") if part.strip()]
        return tuple(parse_value(name, part.strip(), arguments[0]) for part in parts)
    if hint is bool:
        if text.lower() not in _TRUE + _FALSE:
            raise ArgumentError.of(name, text, "true or false")
        return text.lower() in _TRUE
    if hint in (int, float):
        try:
            return int(text) if hint is int else parse_ratio(text)
        except (ValueError, ZeroDivisionError, OverflowError):
            kind = "a whole number" if hint is int else "a number"
            raise ArgumentError.of(name, text, kind) from None
    if hint is str:
        return text
    if isinstance(hint, type) and kind_of(hint) == "schedule":
        return from_plain(read_call(name, text, "schedule"))
    raise ArgumentError.of(name, text, f"a value of type {hint}, in Python: not on a command line")


def _narrowness(kind: Any) -> int:
    """Return which types of a union are tried first: any whole number is one, any text a text."""
    return {int: 0, str: 2}.get(kind, 1)
