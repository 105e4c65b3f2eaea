"""The errors that a user can cause; each names the wrong value and what is allowed."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

_LONG = 20  # names that a message can list beside the nearest ones


class LftrError(Exception):
    """Base of every error that a user of lftr can cause."""


class ArgumentError(LftrError, ValueError):
    """An argument has a value that is not allowed."""

    @classmethod
    def of(cls, name: str, value: object, allowed: str) -> ArgumentError:
        """Build an error that names the argument, its value and what is allowed."""
        text = repr(value)
        if len(text) > 120:
            text = text[:117] + "..."
        return cls(f"{name} = {text}; allowed: {allowed}")

    @classmethod
    def unknown(cls, what: str, name: str, known: Iterable[str]) -> ArgumentError:
        """Build an error for a name that is not in ``known``: the nearest names, else all."""
        names = sorted(known)
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.4)
        if near and len(names) > _LONG:
            rest = f"{len(names)} are known"
        else:
            rest = f"known: {', '.join(names) or 'none'}"
        hint = f"did you mean {' or '.join(repr(name) for name in near)}? " if near else ""
        return cls(f"unknown {what} {name!r}; {hint}{rest}")


class MissingEvidenceError(ArgumentError):
    """A method needs evidence about the tokens that is not available.

    Attributes
    ----------
    fields : tuple of str
        The fields of which it needs one, where they are known.
    """

    fields: tuple[str, ...] = ()


class TooLittleMemoryError(ArgumentError):
    """A batch does not fit into memory; its questions may succeed in smaller batches."""


class UnansweredError(LftrError):
    """A processor or a model failed on a question or a batch of questions."""


class UnsupportedModelError(LftrError):
    """A model, or a way of calling it, that cannot be reduced correctly."""


class MissingExtraError(LftrError, ImportError):
    """A part of lftr that needs a package which is not installed."""

    @classmethod
    def of(cls, package: str, extra: str) -> MissingExtraError:
        """Say in one line which extra to install for ``package``."""
        return cls(f"{package} is not installed: pip install {package} (lftr's extra {extra!r})")


def reason_of(error: BaseException) -> str:
    """Return the message of an error in one line, with its class if it is not one of lftr's."""
    message = " ".join(str(error).split())
    if isinstance(error, LftrError):
        return message
    kind = type(error).__name__
    return f"{kind}: {message}" if message else kind


@contextmanager
def raise_unanswered() -> Iterator[None]:
    """Turn errors of a processor or a model in the body into an `UnansweredError`.

    Processors and models are code of others, and a question or an image can make them fail in any
    way. The message of an error of lftr's own is kept as it is. `TooLittleMemoryError` is raised
    unchanged, since it is not caused by the question.
    """
    try:
        yield
    except TooLittleMemoryError:
        raise
    except LftrError as error:
        raise UnansweredError(str(error)) from error
    except Exception as error:
        message = f"the processor or the model failed at it ({reason_of(error)})"
        raise UnansweredError(message) from error
