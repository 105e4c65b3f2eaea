"""One spelling of methods and schedules with options: ``Merge(divprune, weighting='similarity')``.

A call is a name with values in parentheses, which may be calls again: of the method or schedule by
position, then by option's name. A value is a number (``0.25``, ``1/4``), ``True``, ``False``,
``None``, a word with or without quotes, or several of them in parentheses. Nothing is evaluated.
"""

from __future__ import annotations

import ast
import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..values.budget import parse_ratio
from ..values.errors import ArgumentError
from .checks import fields_of
from .plain import Plain, classes_of, kind_of, name_of

DEEPEST = 8
"""How many calls and sequences a value may be inside of."""
_TOKEN = re.compile(
    r"""\s*(?:
    (?P<number>[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:e[-+]?\d+)?(?:/\d+|%)?(?![\w.]))
    |(?P<name>-?[^\W\d][\w-]*)
    |(?P<text>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")
    |(?P<sign>[(),=\[\]])
    )\s*""",
    re.VERBOSE | re.IGNORECASE,
)
_WORDS = {"true": True, "false": False, "none": None}


def is_call(text: object) -> bool:
    """Whether a text is a call, and not a name alone."""
    return isinstance(text, str) and "(" in text


def read_call(name: str, text: str, kind: str) -> dict[str, Any]:
    """Return a call as the plain value that `lftr.options.plain.from_plain` takes.

    Parameters
    ----------
    name : str
        The argument, for messages.
    text : str
        The call.
    kind : {"method", "schedule"}
        What has to be called.

    Raises
    ------
    ArgumentError
        If the text is no such call, or names an unknown method or schedule.
    """
    try:
        value = _Reader(text, kind).whole()
    except (ValueError, SyntaxError, ZeroDivisionError, OverflowError) as error:
        if isinstance(error, ArgumentError):
            raise
        example = "Merge(divprune)" if kind == "method" else "Step(layer=2, keep=0.5)"
        allowed = f"a {kind} with its options, such as {example} ({error})"
        raise ArgumentError.of(name, text, allowed) from None
    if kind not in value:
        raise ArgumentError.unknown(kind, str(next(iter(value.values()))), classes_of(kind))
    return value


def plain_of(name: object, options: object) -> dict[str, Any]:
    """Return a method's name and options, or a call in place of the name, as a plain value.

    Parameters
    ----------
    name : str or object
        What is no text is left to `lftr.options.plain.from_plain` to refuse.
    options : mapping
        Options beside those of the call.

    Raises
    ------
    ArgumentError
        If the call is none, or an option is in both.
    """
    if not isinstance(options, Mapping):
        raise ArgumentError.of("options", options, "an object of names and values")
    if not is_call(name):
        return {"method": name, "options": dict(options)}
    plain = read_call("method", str(name), "method")
    for option in options.keys() & plain["options"].keys():
        raise ArgumentError.of(option, options[option], f"once, in {name} or beside it")
    return plain | {"options": plain["options"] | dict(options)}


def spell(value: Any) -> str:
    """Return a method or another option's value as `read_call` reads it.

    Of methods, options at their defaults are left out.
    """
    if isinstance(value, tuple):
        return f"({', '.join(map(spell, value))}{',' * (len(value) == 1)})"
    if isinstance(value, Path):
        return repr(str(value))
    kind = kind_of(type(value))
    if kind is None:
        return repr(value)
    written: list[str] = []
    for field in fields_of(type(value)):
        part, required = getattr(value, field.name), _is_required(field)
        if required and isinstance(part, Plain.kinds["method"]) and len(written) == _first(written):
            written.append(str(part))
        elif kind != "method" or part != field.default:
            written.append(f"{field.name}={spell(part)}")
    name = name_of(type(value))
    return f"{name}({', '.join(written)})" if written else name


class _Reader:
    """Reads one call, token by token."""

    def __init__(self, text: str, kind: str) -> None:
        self.kind = kind
        self.tokens: list[tuple[str, str]] = []
        place = 0
        while place < len(text):
            match = _TOKEN.match(text, place)
            if match is None:
                raise ValueError(f"not understood: {text[place : place + 20]!r}")
            self.tokens.append((str(match.lastgroup), match[str(match.lastgroup)]))
            place = match.end()
        self.place = 0

    def whole(self) -> dict[str, Any]:
        kind, name = self._next()
        if kind != "name":
            raise ValueError(f"a name was expected, not {name!r}")
        value = self._call(name, 0)
        if self.place < len(self.tokens):
            raise ValueError(f"nothing was expected after it, but {self._next()[1]!r}")
        return value

    def _next(self) -> tuple[str, str]:
        if self.place == len(self.tokens):
            raise ValueError("it ends too early")
        self.place += 1
        return self.tokens[self.place - 1]

    def _take(self, sign: str) -> bool:
        """Go on after a sign, if it is next."""
        there = self.tokens[self.place : self.place + 1] == [("sign", sign)]
        self.place += there
        return there

    def _call(self, name: str, depth: int) -> dict[str, Any]:
        if not self._take("("):
            raise ValueError(f"'(' was expected after {name}")
        kind, cls = self._class_of(name)
        free = [field.name for field in fields_of(cls) if not field.kw_only]
        options: dict[str, Any] = {}
        while not self._take(")"):
            if self.tokens[self.place + 1 : self.place + 2] == [("sign", "=")]:
                option = self._next()[1]
                self.place += 1
                free = []
            elif free:
                option = free.pop(0)
            else:
                raise ValueError(f"{name} takes the next value with its option's name")
            if option in options:
                raise ValueError(f"{option} is there twice")
            options[option] = self._value(depth + 1)
            if not self._take(","):
                if not self._take(")"):
                    raise ValueError(f"',' or ')' was expected after {option} of {name}")
                break
        return {kind: name, "options": options}

    def _class_of(self, name: str) -> tuple[str, type]:
        """Return the kind and the class that a name calls, first of the kind that is read."""
        for kind in (self.kind, *Plain.kinds):
            if name in classes_of(kind):
                return kind, classes_of(kind)[name]
        raise ArgumentError.unknown(self.kind, name, classes_of(self.kind))

    def _value(self, depth: int) -> Any:
        if depth > DEEPEST:
            raise ValueError(f"more than {DEEPEST} inside each other")
        kind, token = self._next()
        if kind == "number":
            return int(token) if token.lstrip("+-").isdecimal() else parse_ratio(token)
        if kind == "text":
            return ast.literal_eval(token)
        if kind == "name":
            if self.tokens[self.place : self.place + 1] == [("sign", "(")]:
                return self._call(token, depth)
            if token.lower().lstrip("-") == "inf":
                return float(token)
            return _WORDS.get(token.lower(), token)
        if token not in "([":
            raise ValueError(f"a value was expected, not {token!r}")
        end, values = ")" if token == "(" else "]", []
        while not self._take(end):
            values.append(self._value(depth + 1))
            if not self._take(","):
                if not self._take(end):
                    raise ValueError(f"',' or {end!r} was expected after {values[-1]!r}")
                break
        return values


def _is_required(field: dataclasses.Field[Any]) -> bool:
    missing = dataclasses.MISSING
    return field.default is missing and field.default_factory is missing and not field.kw_only


def _first(written: list[str]) -> int:
    """Return how many values at the front have no option's name."""
    return next((i for i, one in enumerate(written) if re.match(r"\w+=", one)), len(written))
