"""Questions about a few images, answered by the full model and under settings in turn."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from ...values.errors import LftrError, UnansweredError, raise_unanswered
from ..asking.answering import Answer, one_batch
from ..asking.items import Item, Question
from ..asking.problems import Problem
from ..asking.settings import Setting, full_model
from ..asking.subject import Subject
from .answers import Answers, SearchAnswer

Group = tuple[Item, ...]


@dataclass
class ImageBatch:
    """A few images, each encoded once, whose questions the full model has answered.

    Attributes
    ----------
    sizes : sequence of int
        Number of questions of each image.
    full : sequence of SearchAnswer
        The full model's answers to all questions.
    """

    sizes: Sequence[int]
    ask: Callable[[Setting], list[SearchAnswer]]
    full: Sequence[SearchAnswer]

    def agreements(self, setting: Setting) -> tuple[list[float], list[SearchAnswer]]:
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
class BatchRunner:
    """Divides images into batches, and answers their questions under several settings.

    Attributes
    ----------
    batch : int
        Questions per batch; the questions of one image stay together.
    step : callable
        Called with the number of images after each batch.
    answers : Answers
        Earlier answers; their questions are not asked again.
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

    def batches(
        self, groups: Sequence[Group]
    ) -> Generator[tuple[int, ImageBatch | None], None, None]:
        """Yield for each batch how many of ``groups`` it took, and the batch.

        None in place of a batch of which no image could be read and answered.
        """
        start = 0
        while start < len(groups):
            end, questions = start + 1, len(groups[start])
            while end < len(groups) and questions + len(groups[end]) <= self.batch:
                questions += len(groups[end])
                end += 1
            with self._batch(groups[start:end]) as batch:
                yield end - start, batch
            self.step(end - start)
            start = end

    @contextmanager
    def _batch(self, groups: Sequence[Group]) -> Iterator[ImageBatch | None]:
        read = [(group, held) for group in groups if (held := self.read(group))]
        if not read:
            yield None
            return
        items = [item for group, _ in read for item in group]
        ids = [item.id for item in items]
        with _QuestionBatches(self, [one for _, held in read for one in held]) as asking:

            def ask_all(setting: Setting) -> list[SearchAnswer]:
                return self.answers.to(ids, setting, asking.ask)

            full_answers = ask_all(full_model())
            self._record_failures(items, full_answers)
            failed = {item.id for item, one in zip(items, full_answers, strict=True) if one.failed}
            answered = [group for group, _ in read if failed.isdisjoint(one.id for one in group)]
            ids_here = {item.id for group in answered for item in group}

            def ask(setting: Setting) -> list[SearchAnswer]:
                pairs = zip(items, ask_all(setting), strict=True)
                rest = [(item, one) for item, one in pairs if item.id in ids_here]
                self._record_failures([item for item, _ in rest], [one for _, one in rest], setting)
                return [one for _, one in rest]

            full = [
                one for item, one in zip(items, full_answers, strict=True) if item.id in ids_here
            ]
            self.answered += len(full)
            self.cut_short += sum(not answer.ended for answer in full)
            yield ImageBatch([len(group) for group in answered], ask, full) if answered else None

    def _record_failures(
        self,
        items: Sequence[Item],
        answers: Sequence[SearchAnswer],
        setting: Setting | None = None,
    ) -> None:
        """Record the questions that failed as problems, with the name of the setting."""
        for item, one in zip(items, answers, strict=True):
            if one.failed:
                self.failed.add(item.id)
                under = "" if setting is None else f", {setting.label}"
                self.problems.append(Problem(f"{item.label}{under}", one.failed))

    def read(self, group: Group) -> list[Question]:
        """Read the images of a group; if one fails, return none and record a problem."""
        try:
            return [item.to_question() for item in group]
        except LftrError as error:
            self.problems.append(Problem(group[0].label, str(error)))
            return []


class _QuestionBatches(ExitStack):
    """Questions in batches; their images are encoded at the first setting."""

    def __init__(self, runner: BatchRunner, questions: Sequence[Question]) -> None:
        super().__init__()
        self._subject, size = runner.subject, runner.batch
        self._parts = [questions[start : start + size] for start in range(0, len(questions), size)]
        self._open: dict[tuple[int, ...], Callable[[Setting], list[Answer]]] = {}

    def ask(self, setting: Setting) -> list[SearchAnswer]:
        """Answer all questions under a setting."""
        return [one for part in self._parts for one in self._answers(part, setting)]

    def _answers(self, questions: Sequence[Question], setting: Setting) -> list[SearchAnswer]:
        """Answer questions as one batch and, if that fails, one by one."""
        try:
            with raise_unanswered():
                return [SearchAnswer.of(answer) for answer in self._together(questions)(setting)]
        except UnansweredError as error:
            if len(questions) == 1:
                return [SearchAnswer("", 0, 0.0, True, failed=str(error))]
            return [self._answers([one], setting)[0] for one in questions]

    def _together(self, questions: Sequence[Question]) -> Callable[[Setting], list[Answer]]:
        key = tuple(map(id, questions))
        if key not in self._open:
            together = one_batch(
                self._subject.model,
                self._subject.processor,
                questions,
                text_tower=self._subject.text_tower,
                max_new_tokens=self._subject.max_new_tokens,
            )
            self._open[key] = self.enter_context(together)
        return self._open[key]
