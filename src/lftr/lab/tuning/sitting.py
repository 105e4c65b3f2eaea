"""Questions about a few images, answered by the full model and under settings in turn."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from ...values.errors import LftrError, UnansweredError, unanswered
from ..asking.answering import Answer, one_batch
from ..asking.items import Item, Question
from ..asking.problems import Problem
from ..asking.settings import Setting, full_model
from ..asking.subject import Subject
from .answers import Answers, Said

Group = tuple[Item, ...]


@dataclass
class Sitting:
    """A few images, each encoded once, whose questions the full model has answered.

    Attributes
    ----------
    sizes : sequence of int
        Number of questions of each image.
    full : sequence of Said
        The full model's answers to all questions.
    """

    sizes: Sequence[int]
    ask: Callable[[Setting], list[Said]]
    full: Sequence[Said]

    def agreements(self, setting: Setting) -> tuple[list[float], list[Said]]:
        """Return each image's share of answers that equal the full model's, and all answers.

        A failure of the reduced model counts as a different answer.
        """
        answers = self.ask(setting)
        same = [one.agrees(full) for one, full in zip(answers, self.full, strict=True)]
        shares, start = [], 0
        for size in self.sizes:
            shares.append(sum(same[start : start + size]) / size)
            start += size
        return shares, answers


@dataclass
class Seating:
    """Divides a workload into sittings, and asks its questions in batches.

    Attributes
    ----------
    batch : int
        Questions per batch; the questions of one image stay together.
    step : callable
        Called with the number of images after each sitting.
    answers : Answers
        Earlier answers, which are not asked for again.
    problems : list of Problem
        Images that could not be read, and questions without an answer.
    answered, cut_short : int
        Number of the full model's answers, and how many ``max_new_tokens`` cut short.
    failed : set of str
        Ids of the questions that failed under any setting.
    """

    subject: Subject
    batch: int
    step: Callable[[int], None]
    answers: Answers = field(default_factory=Answers)
    problems: list[Problem] = field(default_factory=list)
    answered: int = 0
    cut_short: int = 0
    failed: set[str] = field(default_factory=set)

    def sittings(
        self, groups: Sequence[Group]
    ) -> Generator[tuple[int, Sitting | None], None, None]:
        """Yield the number of images taken from ``groups``, and their sitting if there is one."""
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
        items = [item for group, _ in read for item in group]
        ids = [item.id for item in items]
        with _Batches(self, [one for _, held in read for one in held]) as batches:

            def ask_all(setting: Setting) -> list[Said]:
                return self.answers.to(ids, setting, batches.ask)

            whole = ask_all(full_model())
            self._name(items, whole)
            failed = {item.id for item, one in zip(items, whole, strict=True) if one.failed}
            seated = [group for group, _ in read if failed.isdisjoint(one.id for one in group)]
            here = {item.id for group in seated for item in group}

            def ask(setting: Setting) -> list[Said]:
                said = zip(items, ask_all(setting), strict=True)
                rest = [(item, one) for item, one in said if item.id in here]
                self._name([item for item, _ in rest], [one for _, one in rest], setting)
                return [one for _, one in rest]

            full = [one for item, one in zip(items, whole, strict=True) if item.id in here]
            self.answered += len(full)
            self.cut_short += sum(not answer.ended for answer in full)
            yield Sitting([len(group) for group in seated], ask, full) if seated else None

    def _name(
        self, items: Sequence[Item], said: Sequence[Said], setting: Setting | None = None
    ) -> None:
        """Record the questions without an answer, with the name of the setting."""
        for item, one in zip(items, said, strict=True):
            if one.failed:
                self.failed.add(item.id)
                under = "" if setting is None else f", {setting.label}"
                self.problems.append(Problem(f"{item.told}{under}", one.failed))

    def read(self, group: Group) -> list[Question]:
        """Read the images of a group; if one fails, return none and record a problem."""
        try:
            return [item.asked() for item in group]
        except LftrError as error:
            self.problems.append(Problem(group[0].told, str(error)))
            return []


class _Batches(ExitStack):
    """Questions in batches; their images are encoded at the first setting."""

    def __init__(self, seating: Seating, asked: Sequence[Question]) -> None:
        super().__init__()
        self._subject, size = seating.subject, seating.batch
        self._parts = [asked[start : start + size] for start in range(0, len(asked), size)]
        self._open: dict[tuple[int, ...], Callable[[Setting], list[Answer]]] = {}

    def ask(self, setting: Setting) -> list[Said]:
        """Answer all questions under a setting."""
        return [one for part in self._parts for one in self._said(part, setting)]

    def _said(self, asked: Sequence[Question], setting: Setting) -> list[Said]:
        """Answer questions as one batch and, if that fails, one by one."""
        try:
            with unanswered():
                return [Said.of(answer) for answer in self._together(asked)(setting)]
        except UnansweredError as error:
            if len(asked) == 1:
                return [Said("", 0, 0.0, True, failed=str(error))]
            return [self._said([one], setting)[0] for one in asked]

    def _together(self, asked: Sequence[Question]) -> Callable[[Setting], list[Answer]]:
        key = tuple(map(id, asked))
        if key not in self._open:
            together = one_batch(
                self._subject.model,
                self._subject.processor,
                asked,
                text_tower=self._subject.text_tower,
                max_new_tokens=self._subject.max_new_tokens,
            )
            self._open[key] = self.enter_context(together)
        return self._open[key]
