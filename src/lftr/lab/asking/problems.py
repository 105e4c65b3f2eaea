"""What could not be asked, and why; the rest goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from ...values.errors import LftrError, UnansweredError, unanswered
from .items import Item, Question

if TYPE_CHECKING:
    from .answering import Answer
    from .settings import Setting

    Ask = Callable[[Setting], list[Answer]]
Found = TypeVar("Found")


@dataclass(frozen=True)
class Problem:
    """Something that could not be asked, and why."""

    where: str
    reason: str

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}"


def readable(items: Iterable[Item], problems: list[Problem]) -> Iterator[tuple[Item, Question]]:
    """Yield items with their images read; those whose images cannot be are added to problems."""
    for item in items:
        try:
            yield item, item.asked()
        except LftrError as error:
            problems.append(Problem(item.told, str(error)))


def or_unanswered(found: Iterable[Found]) -> Iterator[Found]:
    """Yield what is found; what fails in finding it, not in using it, is an `UnansweredError`."""
    iterator = iter(found)
    while True:
        with unanswered():
            try:
                one = next(iterator)
            except StopIteration:
                return
        yield one


@contextmanager
def first_answered(
    questions: Iterable[AbstractContextManager[Ask]], setting: Setting
) -> Iterator[Ask | None]:
    """Let the first question be asked that is answered under ``setting``.

    Parameters
    ----------
    questions : iterable
        What `answering.one_batch` returns for each question alone.

    Yields
    ------
    callable or None
        Asks it under a setting; None where there are no questions.

    Raises
    ------
    LftrError
        What came of the first of them, where none is answered.
    """
    first: UnansweredError | None = None
    for question in questions:
        with ExitStack() as stack:
            try:
                with unanswered():
                    ask = stack.enter_context(question)
                    ask(setting)
            except UnansweredError as error:
                first = first or error
                continue
            yield ask
            return
    if first is not None:
        raise first.__cause__ if isinstance(first.__cause__, LftrError) else first
    yield None
