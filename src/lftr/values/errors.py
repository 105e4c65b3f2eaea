"""The errors that a user can cause; each says what was given and what is allowed."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class LftrError(Exception):
    """Base of every error that a user of lftr can cause."""


class ArgumentError(LftrError, ValueError):
    """An argument has a value that is not allowed."""

    @classmethod
    def of(cls, name: str, value: object, allowed: str) -> ArgumentError:
        """Build the message every argument error shares: the name, the value, what is allowed."""
        shown = repr(value)
        if len(shown) > 120:
            shown = shown[:117] + "..."
        return cls(f"{name} = {shown}; allowed: {allowed}")

    @classmethod
    def unknown(cls, what: str, given: str, known: Iterable[str]) -> ArgumentError:
        """Build the message for a name that is not in ``known``, with the nearest ones first."""
        names = sorted(known)
        near = difflib.get_close_matches(given, names, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(repr(name) for name in near)}? " if near else ""
        return cls(f"unknown {what} {given!r}; {hint}known: {', '.join(names) or 'none'}")


class MissingEvidenceError(ArgumentError):
    """A method needs to know more about the tokens than it was given."""


class TooLittleMemoryError(ArgumentError):
    """A batch does not fit the device: nothing is said about what was asked of the model."""


class UnansweredError(LftrError):
    """What was asked, one question or a batch, at which a processor or a model failed."""


class UnsupportedModelError(LftrError):
    """A model, or a way of calling it, that cannot be reduced correctly."""


class MissingExtraError(LftrError, ImportError):
    """A part of lftr that needs a package which is not installed."""

    @classmethod
    def of(cls, package: str, extra: str) -> MissingExtraError:
        """Say in one line which extra to install for ``package``."""
        return cls(f"{package} is not installed: pip install {package} (lftr's extra {extra!r})")


def reason_of(error: BaseException) -> str:
    """Return what an error says in one line, with its class where that is no error of lftr's."""
    said = " ".join(str(error).split())
    if isinstance(error, LftrError):
        return said
    kind = type(error).__name__
    return f"{kind}: {said}" if said else kind


@contextmanager
def unanswered() -> Iterator[None]:
    """Raise an `UnansweredError` for whatever a processor or a model raises over what it is asked.

    Both are anybody's code, and a question or an image can make them fail in any way. What lftr
    itself said stands there in its own words. Too little memory says nothing about what was asked,
    and stays what it is.
    """
    try:
        yield
    except TooLittleMemoryError:
        raise
    except LftrError as error:
        raise UnansweredError(str(error)) from error
    except Exception as error:
        said = f"the processor or the model failed at it ({reason_of(error)})"
        raise UnansweredError(said) from error
