"""Errors of methods that read what they do not declare, which no host gathers."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from typing import Protocol, TypeVar, TypeVarTuple

from ..values.errors import LftrError, MissingEvidenceError, reason_of

Values = TypeVarTuple("Values")
R = TypeVar("R")


class Declaring(Protocol):
    """A method that knows what it does not declare."""

    def undeclared(self) -> Mapping[str, str]:
        """Return, for each field that is not declared, what to add to the class."""


def call_declared(method: Declaring, function: Callable[[*Values], R], *arguments: *Values) -> R:
    """Call a function of a method; if it fails for want of an undeclared field, say so.

    A field that is not declared is None. Python's errors about ``None`` do not say which value was
    None, so the message keeps the error's text, and supposes the undeclared fields that are named
    in the code that failed.

    Raises
    ------
    LftrError
        Names the method, the fields, and what to add to the class.
    """
    try:
        return function(*arguments)
    except (AttributeError, TypeError, MissingEvidenceError) as error:
        missing = isinstance(error, MissingEvidenceError)
        undeclared = method.undeclared()
        fields = error.fields if isinstance(error, MissingEvidenceError) else _used_in(error)
        names = [name for name in undeclared if name in fields]
        if not names or (missing and len(names) < len(fields)):
            raise
        called, used = f"{type(method).__name__}.{function.__name__}", " or ".join(names)
        if missing:
            raise LftrError(
                f"{called} reads {used}, which the method does not declare, so that it is not "
                f"gathered: {undeclared[names[0]]}"
            ) from error
        raise LftrError(
            f"{called} failed ({reason_of(error)}); its code uses {used}, which is None since the "
            "method does not declare it: if that is the cause, "
            + "; or ".join(undeclared[name] for name in names)
        ) from error


def _used_in(error: Exception) -> set[str]:
    """Return the names of attributes in the code that failed on None; of other errors, none."""
    if "NoneType" not in str(error):
        return set()
    frames = traceback.walk_tb(error.__traceback__)
    return {name for frame, _ in frames for name in frame.f_code.co_names}
