"""Finds the smallest budget that keeps the full model's answers on a user's images, without labels.

Guarantee. For questions about images like these, the share of answers that equal the full model's,
per image and then averaged, is at least ``agreement``. With probability ``confidence`` this holds
for the resulting budget and method; the search itself is accounted for.

Procedure. The images are shuffled and split. On the first part methods race over bisected budgets
(`search.Race`). The race needs no guarantee, because its result is tested on the other part, which
it did not use. There the winner is tested at neighbouring budgets, from the largest to the
smallest, each by an anytime-valid test (`betting.Bets`) at the full level; only the budgets before
the first failure count (`search.prove`). No correction for the number of methods and budgets is
needed, and each test stops as soon as it is decided.

Assumption. The images are independent samples of what will be asked later. Several questions about
one image need not be independent: an image counts once, with its share.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...presets import Preset
from ...values.budget import as_arguments, spell
from ...values.errors import ArgumentError, LftrError, TooLittleMemoryError
from ..asking.answering import one_batch
from ..asking.items import Question
from ..asking.problems import Problem, first_answered
from ..asking.settings import Setting, full_model
from ..asking.subject import Subject
from .answers import Answers
from .batches import BatchRunner, Group
from .betting import least_values
from .plan import Plan, plain_workload, tune_configuration
from .search import Goal, Proof, Race, Trial, prove
from .workload import Workload

Levels = Sequence[Sequence[Setting]]  # for each budget, from the largest, every method

_RACED = (8, 128)  # least and most images of the race, which otherwise uses a quarter of them
_TIMED = 5  # questions whose prefill is timed


@dataclass(frozen=True)
class Tuned:
    """The result of a search.

    Attributes
    ----------
    preset : Preset
        The smallest budget that was shown to hold, or all tokens if there is none; ``found`` holds
        the measurements.
    proofs : sequence of Proof
        The tests, from the largest budget to the smallest.
    problems : sequence of Problem
        Files and questions that were left out, with the reason.
    """

    preset: Preset
    goal: Goal
    proofs: Sequence[Proof]
    problems: Sequence[Problem]

    @property
    def verdict(self) -> str:
        """The outcome in one sentence."""
        measured = self.preset.found
        if not measured["cut_short"]:
            return self._limit
        return (
            f"{self._limit}; {measured['cut_short']} of the full model's {measured['answered']} "
            f"answers were cut at {measured['max_new_tokens']} tokens, and what would follow was "
            "not compared"
        )

    @property
    def holds(self) -> bool:
        """Whether a budget was shown to hold; if not, the preset keeps all tokens."""
        return self.proofs[0].verdict == "holds"

    @property
    def _limit(self) -> str:
        kept, tokens = self.preset.found["kept"], self.preset.found["tokens"]
        share = f"{self.goal.agreement:.4g}"
        bolder = next((proof for proof in self.proofs if proof.verdict != "holds"), None)
        if bolder is None:
            return (
                f"{kept:g} of {tokens:g} tokens hold an agreement of {share}; smaller budgets did "
                "worse in the race, or were not tried"
            )
        trial = bolder.trial
        method = str(trial.setting.method)
        sentence = f"not below {kept:g} tokens with {method} on this workload"
        seen = f"at {trial.kept_each:g} tokens {trial.mean:.1%} agreed over {len(trial.shares)}"
        if bolder.verdict == "fails":
            return f"{sentence}: {seen} images, which refutes an agreement of {share}"
        return f"{sentence}, as far as it can tell: {seen} images, which does not show {share}"


def tune(
    subject: Subject,
    workload: Workload,
    goal: Goal,
    plan: Plan = Plan(),  # noqa: B008  (a value)
    *,
    run: str | Path | None = None,
    step: Callable[[int], None] = lambda images: None,
) -> Tuned:
    """Find the smallest budget that holds, and its method; the module states the guarantee.

    Parameters
    ----------
    goal : Goal
        The required agreement with the full model, and the confidence.
    plan : Plan
        The methods and budgets to try.
    run : str or Path, optional
        Folder of the answers, from which the same search continues after an interruption. By
        default answers are not written.
    step : callable
        Called with the number of images after each batch; the sum stays below the workload's if
        the search stops early.

    Raises
    ------
    ArgumentError
        If two methods have the same name, there are too few images (the message says how many are
        needed), or the folder belongs to another search.
    """
    check_size(workload, goal)
    config = tune_configuration(subject, workload, goal, plan)
    levels = plan.levels(plan.methods_for(subject))
    with closing(Answers() if run is None else Answers.open(run, config)) as answers:
        return _search(
            BatchRunner(subject, plan.batch, step, answers), workload, goal, levels, plan
        )


def _search(
    runner: BatchRunner, workload: Workload, goal: Goal, levels: Levels, plan: Plan
) -> Tuned:
    """Race, test, and return the result."""
    subject = runner.subject
    groups = random.Random(plan.seed).sample(workload.groups, len(workload.groups))
    first = _race_size(len(groups))
    barred = _unmet(runner, groups, levels)
    race = Race(_supported_settings(levels, barred), goal, first, barred.keys())
    with closing(runner.batches(groups[:first])) as batches:
        for _, batch in batches:
            if batch is not None:
                race.run(batch)
    proofs = [Proof(setting, goal) for setting in race.chain()]
    with closing(runner.batches(groups[first:])) as batches:
        held = prove(proofs, batches, len(groups) - first)
    if not proofs[0].trial.questions:
        raise ArgumentError.of(
            "workload",
            workload.name,
            f"images that can be read, and questions with an answer: {runner.problems[-1]}",
        )

    tokens = proofs[0].trial.tokens / proofs[0].trial.questions
    setting = proofs[held - 1].trial.setting if held else full_model()
    whole = (group for group in groups if runner.failed.isdisjoint(one.id for one in group))
    readable = (one for group in whole for one in runner.read(group)[:1])
    timed = list(itertools.islice(readable, _TIMED))
    measured = {
        "agreement": goal.agreement,
        "confidence": goal.confidence,
        "workload": plain_workload(workload),
        "seed": plan.seed,
        "batch": plan.batch,
        "max_new_tokens": subject.max_new_tokens,
        "answered": runner.answered,
        "cut_short": runner.cut_short,
        "tokens": tokens,
        "kept": proofs[held - 1].trial.kept_each if held else tokens,
        "raced": [_plain(trial) for level in race.trials for trial in level if trial.shares],
        "tested": [_plain(proof.trial) | {"verdict": proof.verdict} for proof in proofs],
        "prefill": _measure_saving(subject, timed, setting) if held else None,
    }
    preset = Preset(
        setting.method,
        positions=plan.positions,
        model=subject.name,
        found=measured,
        encoder=setting.encoder,
        weights=setting.weights,
        **as_arguments(setting.keep),
    )
    unmet = (Problem(label, reason) for label, reason in barred.items())
    met = [*workload.problems, *unmet, *runner.problems]
    problems = dict.fromkeys(met)  # without duplicates
    return Tuned(preset, goal, proofs, list(problems))


def _unmet(runner: BatchRunner, groups: Sequence[Group], levels: Levels) -> dict[str, str]:
    """Return the settings that fail on a question that the full model answers."""
    subject, reasons = runner.subject, {}
    questions = (
        one_batch(
            subject.model,
            subject.processor,
            held[:1],
            text_tower=subject.text_tower,
            max_new_tokens=1,
        )
        for group in groups
        if (held := runner.read(group))
    )
    with first_answered(questions, full_model()) as ask:
        if ask is None:
            return {}
        for setting in itertools.chain.from_iterable(levels):
            try:
                ask(setting)
            except TooLittleMemoryError:
                raise  # another process may hold the memory: this would not be reproducible
            except LftrError as error:
                reasons[setting.label] = str(error).removeprefix(f"{setting.label}: ")
    return reasons


def _supported_settings(levels: Levels, barred: Mapping[str, str]) -> list[list[Setting]]:
    """Return the settings of the methods that support at least one budget."""
    lanes = [lane for lane in zip(*levels, strict=True) if any(s.label not in barred for s in lane)]
    if not lanes:
        label, reason = next(iter(barred.items()))
        budgets = [spell(level[0].keep) for level in levels]
        raise ArgumentError.of("keep", budgets, f"what a method can do; {label}: {reason}")
    return [list(level) for level in zip(*lanes, strict=True)]


def _race_size(images: int) -> int:
    """Return the number of images for the race."""
    least, most = _RACED
    return min(max(math.ceil(images / 4), least), most)


def check_size(workload: Workload, goal: Goal) -> None:
    """Refuse a workload with too few images to show the agreement even if all answers agree.

    Raises
    ------
    ArgumentError
        The message says how many images are needed.
    """
    tested = least_values(goal.agreement, goal.alpha)
    images = len(workload.groups)
    if images - _race_size(images) < tested:
        needed = next(
            n for n in range(tested, 2 * tested + _RACED[0]) if n - _race_size(n) >= tested
        )
        raise ArgumentError.of(
            "workload",
            f"{workload.name}, {images} images with questions",
            f"at least {needed} images for an agreement of {goal.agreement:.4g} at a confidence of "
            f"{goal.confidence:.4g}",
        )


def _measure_saving(
    subject: Subject, questions: Sequence[Question], setting: Setting
) -> dict[str, Any]:
    """Time the prefill of a few questions with the full model and with the resulting setting."""
    from ..profiling import Spread, time_settings

    settings = [full_model(), setting]
    full, reduced = time_settings(
        subject.model, subject.processor, questions, settings, text_tower=subject.text_tower
    )
    return {"questions": len(questions), "device": str(subject.model.device)} | {
        name: {
            "full_ms": Spread.of(full.of(part)).median,
            "ms": Spread.of(reduced.of(part)).median,
            "full_over_this": Spread.of_ratios(full.of(part), reduced.of(part)).plain,
        }
        for name, part in (("after_encoder", "after_encoder"), ("with_encoder", "total"))
    }


def _plain(trial: Trial) -> dict[str, Any]:
    return {
        "setting": trial.setting.label,
        "kept": trial.kept_each,
        "images": len(trial.shares),
        "agreement": trial.mean,
    }
