"""From the command line's words to values: method options, dtypes, devices."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import torch

from ..errors import ArgumentError
from ..merges import MERGES
from ..methods import get_method
from ..methods.base import Method
from ..methods.encoder import EncoderMerge
from ..methods.inside.schedules import Schedule
from .spelling import parse_schedule

_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def parse_method(name: str, options: Sequence[str]) -> Method:
    """Return the method ``name`` with options given as ``name=value``."""
    plain: Method = get_method(name)
    # a name that is not known goes on to get_method, which says so with the nearest ones
    method: Method = get_method(name, **_values(type(plain), options)) if options else plain
    return method


def parse_merge(text: str) -> EncoderMerge:
    """Return a merge inside the vision encoder, given as ``name`` or ``name:option=value,...``.

    Raises
    ------
    ArgumentError
        If there is none of that name, or an option is not one of it or out of its range.
    """
    name, _, rest = text.partition(":")
    if name not in MERGES:
        raise ArgumentError.unknown("encoder", name, MERGES)
    known = [field.name for field in dataclasses.fields(MERGES[name])]
    values = _values(MERGES[name], [one for one in rest.split(",") if one.strip()], "--encoder")
    for option in values:
        if option not in known:
            raise ArgumentError.unknown(f"option of encoder {name!r}", option, known)
    return MERGES[name](**values)


def _values(cls: type, options: Sequence[str], where: str = "--option") -> dict[str, Any]:
    """Read ``name=value`` as options of a class."""
    hints = typing.get_type_hints(cls)
    values: dict[str, Any] = {}
    for option in options:
        key, separator, text = option.partition("=")
        if not separator:
            raise ArgumentError.of(where, option, "name=value")
        values[key.strip()] = parse_value(key.strip(), text.strip(), hints.get(key.strip(), str))
    return values


def parse_methods(names: Sequence[str], options: Sequence[str]) -> list[Method]:
    """Return several methods; ``divprune.name=value`` is an option of divprune alone."""
    return [parse_method(name, _options_of(name, names, options)) for name in names]


def _options_of(name: str, methods: Sequence[str], given: Sequence[str]) -> list[str]:
    own = []
    for option in given:
        key, dot, _ = option.partition("=")[0].partition(".")
        if dot and key in methods:
            own += [option[len(key) + 1 :]] * (key == name)
        elif len(methods) == 1:
            own.append(option)
        else:
            raise ArgumentError.of("--option", option, "method.name=value, of several methods")
    return own


def parse_value(name: str, text: str, hint: Any) -> object:
    """Read ``text`` as a value of the type ``hint``.

    Raises
    ------
    ArgumentError
        If it cannot be read so; the message names the option.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
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
        parts = [part for part in text.split(",") if part.strip()]
        return tuple(parse_value(name, part.strip(), arguments[0]) for part in parts)
    if hint is bool:
        if text.lower() not in _TRUE + _FALSE:
            raise ArgumentError.of(name, text, "true or false")
        return text.lower() in _TRUE
    if hint in (int, float):
        try:
            return int(text) if hint is int else _number(text)
        except (ValueError, ZeroDivisionError):
            kind = "a whole number" if hint is int else "a number"
            raise ArgumentError.of(name, text, kind) from None
    if hint is str:
        return text
    if isinstance(hint, type) and issubclass(hint, Schedule):
        return parse_schedule(name, text)
    raise ArgumentError.of(name, text, f"a value of type {hint}, in Python: not on a command line")


def _narrowness(kind: Any) -> int:
    """Return which types of a union are tried first: any whole number is one, any text a text."""
    return {int: 0, str: 2}.get(kind, 1)


def _number(text: str) -> float:
    return float(Fraction(text)) if "/" in text else float(text)


def parse_dtype(name: str) -> torch.dtype | None:
    """Return a dtype by name; None for ``auto``, the checkpoint's own."""
    if name == "auto":
        return None
    if name not in _DTYPES:
        raise ArgumentError.of("--dtype", name, f"auto, {', '.join(_DTYPES)}")
    return _DTYPES[name]


def parse_device(name: str | None) -> torch.device:
    """Return a device by name; by default a GPU where there is one."""
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError, NotImplementedError):
        here = ", ".join(["cpu", *_accelerators()])
        raise ArgumentError.of("--device", name, f"a device of this machine: {here}") from None


def _accelerators() -> list[str]:
    """Name the machine's accelerators, as torch does."""
    kind = torch.accelerator.current_accelerator(check_available=True)
    return [] if kind is None else [f"{kind}:{i}" for i in range(torch.accelerator.device_count())]
