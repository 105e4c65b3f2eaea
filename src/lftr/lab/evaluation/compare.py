"""Settings scored on the same examples of a suite."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..asking.answering import answer_all
from ..asking.items import Question
from ..asking.settings import Setting
from ..suites import ClipExample, Example


@dataclass
class Outcome:
    """The answers of one setting.

    Attributes
    ----------
    answers : list of str
        One for each question, in order.
    correct : list of bool
        Whether each is right.
    kept : list of float
        Number of visual tokens of each question in the language model.
    """

    setting: Setting
    answers: list[str] = field(default_factory=list)
    correct: list[bool] = field(default_factory=list)
    kept: list[float] = field(default_factory=list)

    @property
    def tokens(self) -> float:
        """Mean number of visual tokens of a question in the language model."""
        return sum(self.kept) / max(len(self.kept), 1)

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return sum(self.correct) / max(len(self.correct), 1)

    def agreement(self, other: Outcome) -> float:
        """Share of answers that equal those of another setting."""
        same = [a == b for a, b in zip(self.answers, other.answers, strict=True)]
        return sum(same) / max(len(same), 1)


def compare(
    model: Any,
    processor: Any,
    examples: Sequence[Example | ClipExample],
    settings: Sequence[Setting],
    *,
    text_tower: Any = None,
    batch: int = 8,
    step: Callable[[int], None] = lambda questions: None,
) -> list[Outcome]:
    """Score every setting on the same examples.

    Parameters
    ----------
    step : callable
        Called with the number of answers after each batch of a setting, ``len(examples) *
        len(settings)`` in all.
    """
    drawn = list(examples)
    questions = [Question.of(example) for example in drawn]
    outcomes = [Outcome(setting) for setting in settings]
    answered = answer_all(model, processor, questions, settings, text_tower=text_tower, batch=batch)
    for number, answers in answered:
        outcome = outcomes[number]
        rest = drawn[len(outcome.answers) :]
        outcome.correct += [e.is_correct(a.text) for e, a in zip(rest, answers, strict=False)]
        outcome.answers += [answer.text for answer in answers]
        outcome.kept += [answer.kept for answer in answers]
        step(len(answers))
    return outcomes
