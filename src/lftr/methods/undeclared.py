"""Errors of methods that read what they do not declare, which no host gathers."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar, TypeVarTuple

from ..values.errors import LftrError, MissingEvidenceError, reason_of
from ..values.tokens import VisualTokens

Values = TypeVarTuple("Values")
R = TypeVar("R")
# modules whose own functions read every field
_COPYING = {VisualTokens.__module__, dataclasses.__name__, f"{__package__}.base"}


class Declaring(Protocol):
    """A method that knows what it does not declare."""

    def undeclared(self) -> Mapping[str, str]:
        """Return, for each field that is not declared, what to add to the class."""


def call_declared(method: Declaring, function: Callable[[*Values], R], *arguments: *Values) -> R:
    """Call a function of a method; if it fails after it read an undeclared field, say so.

    It costs nothing unless the function raises. An error about ``None`` does not say which value
    was None: the function is then called once more, on copies of the arguments that record which
    fields were read and are None. The last of these may be the cause, or a field that the function
    does without, so the message keeps the error's text.

    Raises
    ------
    LftrError
        Names the method, the field, and what to add to the class.
    """
    try:
        return function(*arguments)
    except (AttributeError, TypeError, MissingEvidenceError) as error:
        called = f"{type(method).__name__}.{function.__name__}"
        if isinstance(error, MissingEvidenceError):
            names: tuple[str, ...] = error.fields
            problem = f"{called} reads {' or '.join(names)}, which the method does not declare, so "
            problem += "that it is not gathered: "
        else:
            names = _last_none(function, arguments) if "NoneType" in str(error) else ()
            problem = (
                f"{called} failed ({reason_of(error)}); it reads {''.join(names)}, which is None "
            )
            problem += "since the method does not declare it: if that is the cause, "
        undeclared = method.undeclared()
        if not names or not undeclared.keys() >= set(names):
            raise
        raise LftrError(problem + undeclared[names[0]]) from error


def _last_none(function: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[str, ...]:
    """Call a function that raises again; return the last field that it read as None, if any."""
    read: list[str] = []
    try:
        function(*(_recording(argument, read) for argument in arguments))
    except Exception:
        return tuple(read[-1:])
    return ()


def _recording(value: Any, read: list[str]) -> Any:
    """Return a copy of a value that appends to ``read`` the names of fields read as None."""
    if isinstance(value, (list, tuple)):
        return type(value)(_recording(one, read) for one in value)
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return value
    fields = {field.name for field in dataclasses.fields(value)}

    class Recording(type(value)):  # type: ignore[misc]
        def __getattribute__(self, name: str) -> Any:
            one = super().__getattribute__(name)
            if one is None and name in fields and _caller() not in _COPYING:
                read.append(name)
            return one

    copy = object.__new__(Recording)
    copy.__dict__.update({name: _recording(one, read) for name, one in vars(value).items()})
    return copy


def _caller() -> str:
    """Return the name of the module that reads the attribute."""
    return str(sys._getframe(2).f_globals["__name__"])
