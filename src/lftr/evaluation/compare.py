"""Answers under several reductions, each image encoded once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ..budget import Keep
from ..hosts.transformers.memory import encode_once
from ..methods import get_method
from ..methods.base import Method
from ..prompting import batch_inputs
from ..reduce import reduce
from ..suites import Example

CONTROLS = ("random", "uniform", "pool", "downsample")


@dataclass(frozen=True)
class Setting:
    """One row of a comparison.

    Attributes
    ----------
    label : str
        What the row is called.
    method : Method
        Decides.
    keep : float, int or Budget
        How much stays; ``1.0`` is the full model, whatever the method.
    positions : {"original", "compact"}, optional
        As `lftr.reduce` takes it.
    """

    label: str
    method: Method
    keep: Keep
    positions: str | None = None

    @property
    def full(self) -> bool:
        """Whether this is the model as it is."""
        return isinstance(self.keep, float) and self.keep == 1.0


@dataclass
class Outcome:
    """What came of a setting.

    Attributes
    ----------
    tokens : float
        Visual tokens of an image that reached the language model, on average.
    answers : list of str
        One for each question, in order.
    correct : list of bool
        Whether each is right.
    """

    setting: Setting
    answers: list[str] = field(default_factory=list)
    correct: list[bool] = field(default_factory=list)
    kept: list[int] = field(default_factory=list)

    @property
    def tokens(self) -> float:
        """Visual tokens of an image that reached the language model, on average."""
        return sum(self.kept) / max(len(self.kept), 1)

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return sum(self.correct) / max(len(self.correct), 1)

    def agreement(self, other: Outcome) -> float:
        """Share of answers that are the same as another setting's."""
        same = [a == b for a, b in zip(self.answers, other.answers, strict=True)]
        return sum(same) / max(len(same), 1)


def settings_of(
    ratios: Sequence[int], method: str | Method = "lftr", controls: Sequence[str] = CONTROLS
) -> list[Setting]:
    """Return the rows of the usual table: the full model, then for each ratio method and controls.

    Parameters
    ----------
    ratios : sequence of int
        How many times fewer tokens: 16 keeps a sixteenth.
    """
    own = get_method(method) if isinstance(method, str) else method
    methods = {own.name or type(own).__name__: own} | {name: get_method(name) for name in controls}
    rows = [Setting("full", get_method("uniform"), 1.0)]
    rows += [Setting(label, one, 1 / ratio) for ratio in ratios for label, one in methods.items()]
    return rows


@torch.inference_mode()
def answer_all(
    model: Any,
    processor: Any,
    examples: Sequence[Example],
    settings: Sequence[Setting],
    *,
    text_tower: Any = None,
    batch: int = 8,
    max_new_tokens: int = 8,
) -> Iterator[tuple[int, list[str], list[int]]]:
    """Answer every example under every setting, batch by batch.

    Yields
    ------
    setting : int
        Position in ``settings``.
    answers : list of str
        The batch's answers.
    kept : list of int
        Visual tokens of each of the batch's images.
    """
    for start in range(0, len(examples), batch):
        members = examples[start : start + batch]
        questions = [example.question for example in members]
        inputs = batch_inputs(processor, [([one.image], one.question) for one in members])
        inputs = inputs.to(model.device, dtype=model.dtype)
        with encode_once(model):
            for number, setting in enumerate(settings):
                guided = reduce(
                    model,
                    setting.method,
                    keep=setting.keep,
                    positions=setting.positions,
                    text=questions,
                    processor=processor,
                    text_tower=text_tower,
                )
                with guided as reduction:
                    ids = model.generate(**inputs, do_sample=False, max_new_tokens=max_new_tokens)
                    kept = [item.kept for item in reduction.report.items]
                new = ids[:, inputs["input_ids"].shape[1] :]
                texts = processor.batch_decode(new, skip_special_tokens=True)
                yield number, [text.strip() for text in texts], kept


def compare(
    model: Any,
    processor: Any,
    examples: Sequence[Example],
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
    outcomes = [Outcome(setting) for setting in settings]
    answered = answer_all(model, processor, drawn, settings, text_tower=text_tower, batch=batch)
    for number, answers, kept in answered:
        outcome = outcomes[number]
        asked = drawn[len(outcome.answers) :]
        outcome.correct += [e.is_correct(a) for e, a in zip(asked, answers, strict=False)]
        outcome.answers += answers
        outcome.kept += kept
        step(len(answers))
    return outcomes
