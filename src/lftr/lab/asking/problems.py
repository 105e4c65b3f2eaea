"""Questions that could not be asked, with the reason."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from ...values.errors import LftrError, UnansweredError, raise_unanswered
from .items import Item, Question

if TYPE_CHECKING:
    from .answering import Answer
    from .settings import Setting

    Ask = Callable[[Setting], list[Answer]]
Result = TypeVar("Result")


@dataclass(frozen=True)
class Problem:
    """A question, line or file that could not be used, with the reason."""

    where: str
    reason: str

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}"


def readable(items: Iterable[Item], problems: list[Problem]) -> Iterator[tuple[Item, Question]]:
    """Yield items with their images; add those whose images cannot be read to problems."""
    for item in items:
        try:
            yield item, item.to_question()
        except LftrError as error:
            problems.append(Problem(item.label, str(error)))


def or_unanswered(results: Iterable[Result]) -> Iterator[Result]:
    """Yield the results; an error while computing one becomes an `UnansweredError`."""
    iterator = iter(results)
    while True:
        with raise_unanswered():
            try:
                one = next(iterator)
            except StopIteration:
                return
        yield one


@contextmanager
def first_answered(
    questions: Iterable[AbstractContextManager[Ask]], setting: Setting
) -> Iterator[Ask | None]:
    """Find the first question that is answered under ``setting``, and ask it.

    Parameters
    ----------
    questions : iterable
        What `answering.one_batch` returns for each question alone.

    Yields
    ------
    callable or None
        Asks that question under a setting; None if there are no questions.

    Raises
    ------
    LftrError
        The error of the first question, if none is answered.
    """
    first: UnansweredError | None = None
    for question in questions:
        with ExitStack() as stack:
            try:
                with raise_unanswered():
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
