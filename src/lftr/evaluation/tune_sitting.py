"""Asking the questions of some images under one setting after the other, beside the full model."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from ..errors import LftrError
from .answering import Answer, one_batch
from .evaluate import Subject
from .items import Item
from .jsonl import Problem
from .scoring import agreement
from .settings import Setting, full_model

Group = tuple[Item, ...]


@dataclass
class Sitting:
    """Some images, each encoded once, whose questions the full model has answered.

    Attributes
    ----------
    sizes : sequence of int
        Questions of each image.
    full : sequence of Answer
        The full model's answers to all of them.
    """

    sizes: Sequence[int]
    ask: Callable[[Setting], list[Answer]]
    full: Sequence[Answer]

    def agreements(self, setting: Setting) -> tuple[list[float], list[Answer]]:
        """Return each image's share of answers that equal the full model's, and all answers."""
        answers = self.ask(setting)
        same = agreement([one.text for one in answers], [one.text for one in self.full])
        shares, start = [], 0
        for size in self.sizes:
            shares.append(sum(same[start : start + size]) / size)
            start += size
        return shares, answers


@dataclass
class Seating:
    """Seats a workload's images, a batch of questions at a time.

    Attributes
    ----------
    batch : int
        Questions at a time; the questions of one image stay together.
    step : callable
        Called with the number of images that were taken, when they are done with.
    problems : list of Problem
        Images that could not be read, once looked at.
    answered, cut_short : int
        How many answers the full model gave, and how many of these did not come to their end.
    """

    subject: Subject
    batch: int
    step: Callable[[int], None]
    problems: list[Problem] = field(default_factory=list)
    answered: int = 0
    cut_short: int = 0

    def sittings(
        self, groups: Sequence[Group]
    ) -> Generator[tuple[int, Sitting | None], None, None]:
        """Go through ``groups``; yields how many were taken, and the sitting if any can be read."""
        start = 0
        while start < len(groups):
            end, questions = start + 1, len(groups[start])
            while end < len(groups) and questions + len(groups[end]) <= self.batch:
                questions += len(groups[end])
                end += 1
            with self._seated(groups[start:end]) as sitting:
                yield end - start, sitting
            self.step(end - start)
            start = end

    @contextmanager
    def _seated(self, groups: Sequence[Group]) -> Iterator[Sitting | None]:
        read = [held for group in groups if (held := self.read(group))]
        asked = [one for group in read for one in group]
        if not asked:
            yield None
            return
        subject = self.subject
        with ExitStack() as stack:
            parts = [
                stack.enter_context(
                    one_batch(
                        subject.model,
                        subject.processor,
                        asked[start : start + self.batch],
                        text_tower=subject.text_tower,
                        max_new_tokens=subject.max_new_tokens,
                    )
                )
                for start in range(0, len(asked), self.batch)
            ]

            def ask(setting: Setting) -> list[Answer]:
                return [answer for part in parts for answer in part(setting)]

            full = ask(full_model())
            self.answered += len(full)
            self.cut_short += sum(not answer.ended for answer in full)
            yield Sitting([len(group) for group in read], ask, full)

    def read(self, group: Group) -> list[Held]:
        """Read the images of a group's questions; none, and a problem, where one cannot be read."""
        try:
            return [Held(item.images, item.question) for item in group]
        except LftrError as error:
            self.problems.append(Problem(group[0].id, str(error)))
            return []


@dataclass(frozen=True)
class Held:
    """A question with its images read."""

    images: Sequence[Any]
    question: str
