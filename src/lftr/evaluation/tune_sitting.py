"""Asking the questions of some images under one setting after the other, beside the full model."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from ..errors import LftrError
from .answering import Answer, one_batch
from .items import Item, Question
from .problems import Problem
from .scoring import agreement
from .settings import Setting, full_model
from .subject import Subject
from .tune_answers import Answers, Said

Group = tuple[Item, ...]


@dataclass
class Sitting:
    """Some images, each encoded once, whose questions the full model has answered.

    Attributes
    ----------
    sizes : sequence of int
        Questions of each image.
    full : sequence of Said
        The full model's answers to all of them.
    """

    sizes: Sequence[int]
    ask: Callable[[Setting], list[Said]]
    full: Sequence[Said]

    def agreements(self, setting: Setting) -> tuple[list[float], list[Said]]:
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
    answers : Answers
        What has been answered before, and is not asked again.
    problems : list of Problem
        Images that could not be read, once looked at.
    answered, cut_short : int
        How many answers the full model gave, and how many of these did not come to their end.
    """

    subject: Subject
    batch: int
    step: Callable[[int], None]
    answers: Answers = field(default_factory=Answers)
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
        read = [(group, held) for group in groups if (held := self.read(group))]
        if not read:
            yield None
            return
        ids = [item.id for group, _ in read for item in group]
        with _Batches(self, [one for _, held in read for one in held]) as batches:

            def ask(setting: Setting) -> list[Said]:
                return self.answers.to(ids, setting, batches.ask)

            full = ask(full_model())
            self.answered += len(full)
            self.cut_short += sum(not answer.ended for answer in full)
            yield Sitting([len(group) for group, _ in read], ask, full)

    def read(self, group: Group) -> list[Question]:
        """Read the images of a group's questions; none, and a problem, where one cannot be read."""
        try:
            return [item.asked() for item in group]
        except LftrError as error:
            self.problems.append(Problem(group[0].id, str(error)))
            return []


class _Batches(ExitStack):
    """Some questions in batches; nothing is encoded before something is asked."""

    def __init__(self, seating: Seating, asked: Sequence[Question]) -> None:
        super().__init__()
        self._seating, self._asked = seating, asked
        self._parts: list[Callable[[Setting], list[Answer]]] = []

    def ask(self, setting: Setting) -> list[Answer]:
        """Answer all of them under a setting."""
        subject, batch = self._seating.subject, self._seating.batch
        for start in range(0, 0 if self._parts else len(self._asked), batch):
            together = one_batch(
                subject.model,
                subject.processor,
                self._asked[start : start + batch],
                text_tower=subject.text_tower,
                max_new_tokens=subject.max_new_tokens,
            )
            self._parts.append(self.enter_context(together))
        return [answer for part in self._parts for answer in part(setting)]
