"""Methods as plain values, for files, and back; nested ones and schedules too."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ..methods.encoder.merges import EncoderMerge
from ..methods.inside.schedules import Schedule
from ..values.errors import ArgumentError
from .named import Named


def to_plain(value: Any) -> Any:
    """Return a method as ``{"method": name, "options": {...}}``, or an option's value as JSON can.

    Raises
    ------
    ArgumentError
        If an option is no method, schedule, merge, text, number, bool or None, nor a sequence of
        them.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [to_plain(one) for one in value]
    for kind, base in _KINDS.items():
        if isinstance(value, base):
            return {kind: _name(type(value)), "options": _options(value)}
    raise ArgumentError.of("option", value, "values that JSON has, methods, schedules and merges")


def from_plain(value: Any) -> Any:
    """Return what `to_plain` was given; lists become tuples, as options hold them.

    Raises
    ------
    ArgumentError
        If a method, a schedule or an option is unknown, or a value is out of its range.
    """
    if isinstance(value, list):
        return tuple(from_plain(one) for one in value)
    if not isinstance(value, Mapping):
        return value
    kind = next((kind for kind in _KINDS if kind in value), None)
    if kind is None or not set(value) <= {kind, "options"}:
        raise ArgumentError.of("method", dict(value), f"{' or '.join(_KINDS)}, with its options")
    classes = _classes(kind)
    name, options = value[kind], value.get("options", {})
    if not isinstance(name, str) or name not in classes:
        raise ArgumentError.unknown(kind, str(name), classes)
    if not isinstance(options, Mapping):
        raise ArgumentError.of("options", options, "an object of names and values")
    known = [field.name for field in _fields(classes[name])]
    for option in options:
        if option not in known:
            raise ArgumentError.unknown(f"option of {kind} {name!r}", option, known)
    try:
        return classes[name](**{option: from_plain(one) for option, one in options.items()})
    except TypeError as error:
        raise ArgumentError.of("options", dict(options), f"those of {name}: {error}") from None


_KINDS: dict[str, type[Any]] = {
    "method": Named,
    "schedule": Schedule,
    "encoder": EncoderMerge,
}


def _classes(kind: str) -> dict[str, type[Any]]:
    """Return every class of a kind by the name that it is written by: its own, or the class's."""
    found: dict[str, type[Any]] = {}
    waiting = [_KINDS[kind]]
    while waiting:
        cls = waiting.pop()
        waiting += cls.__subclasses__()
        if getattr(cls, "name", "") or dataclasses.is_dataclass(cls):
            found[_name(cls)] = cls
    return found


def _name(cls: Any) -> str:
    return str(getattr(cls, "name", "") or cls.__name__)


def _fields(cls: Any) -> list[dataclasses.Field[Any]]:
    return [f for f in dataclasses.fields(cls) if f.init] if dataclasses.is_dataclass(cls) else []


def _options(value: Any) -> dict[str, Any]:
    return {field.name: to_plain(getattr(value, field.name)) for field in _fields(value)}
