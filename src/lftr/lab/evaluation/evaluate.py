"""Ask every question under every setting, and write each answer to disk at once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict

from ...values.errors import LftrError, TooLittleMemoryError, UnansweredError
from ..asking.answering import Answer, answer_batch, one_batch
from ..asking.controls import but_controls
from ..asking.items import Item, Question
from ..asking.problems import Problem, first_answered, or_unanswered, readable
from ..asking.settings import Setting, is_control
from ..asking.subject import Subject
from ..scoring.metrics import Metric, get_metric
from .runs import Prediction, Run


def try_settings(
    subject: Subject, items: Sequence[Item], settings: Sequence[Setting]
) -> dict[str, str]:
    """Ask one question under every setting, before hours are spent on the first.

    This is the first question that can be read and that the first setting, the full model, answers;
    `evaluate` leaves out the others.

    Returns
    -------
    dict of str to str
        Controls that this model does not support, with the reason, for `Run.leave_out`.

    Raises
    ------
    LftrError
        If a setting fails whose method is not a control, or no question is answered.
    """
    left_out: dict[str, str] = {}
    questions = (
        one_batch(
            subject.model,
            subject.processor,
            [question],
            text_tower=subject.text_tower,
            max_new_tokens=1,
        )
        for _, question in readable(items, [])
    )
    first, *others = settings
    with first_answered(questions, first) as ask:
        if ask is None:
            return {}
        for setting in others:
            try:
                ask(setting)
            except LftrError as error:
                if not is_control(setting.name) or isinstance(error, TooLittleMemoryError):
                    raise
                left_out[setting.name] = str(error)
    return left_out


def evaluate(
    run: Run,
    subject: Subject,
    items: Sequence[Item],
    settings: Sequence[Setting],
    *,
    metric: str,
    batch: int = 8,
    step: Callable[[str, Sequence[Prediction]], None] = lambda label, lines: None,
) -> list[Problem]:
    """Answer the questions that the run lacks; each batch is on disk before the next starts.

    The batches do not depend on where a run was interrupted, so the answers do not either.

    Parameters
    ----------
    step : callable
        Called with a setting's label and its new lines.

    Returns
    -------
    list of Problem
        Questions whose images could not be read, and those on which the processor or the model
        failed; the next call tries both again. All others were answered.

    Raises
    ------
    TooLittleMemoryError
        If the batch does not fit. Earlier answers stay, and the same call continues after them.
    """
    score = get_metric(metric)
    problems: list[Problem] = []

    def answer(held: Sequence[tuple[Item, Question]]) -> None:
        """Ask questions as one batch and, if that fails, one by one."""
        done = run.done()
        missing = _unanswered_settings(
            _remaining_settings(run, settings), [item for item, _ in held], done
        )
        questions = [question for _, question in held]
        try:
            for setting, answers in or_unanswered(_answer_batch(run, subject, questions, missing)):
                lines = [
                    _line(item, setting, answer, score)
                    for (item, _), answer in zip(held, answers, strict=True)
                    if (item.id, setting.label) not in done
                ]
                run.add(lines)
                step(setting.label, lines)
        except UnansweredError as error:
            if len(held) == 1:
                problems.append(Problem(held[0][0].label, str(error)))
                return
            for one in held:
                answer([one])

    for start in range(0, len(items), batch):
        members = items[start : start + batch]
        if _unanswered_settings(_remaining_settings(run, settings), members, run.done()):
            answer(list(readable(members, problems)))
    return problems


def _remaining_settings(run: Run, settings: Sequence[Setting]) -> list[Setting]:
    """Return the settings that a run has not left out."""
    return [setting for setting in settings if setting.name not in run.left_out]


def _unanswered_settings(
    settings: Sequence[Setting], items: Sequence[Item], done: Collection[tuple[str, str]]
) -> list[Setting]:
    """Return the settings under which some of ``items`` have not been answered."""
    return [
        setting
        for setting in settings
        if any((item.id, setting.label) not in done for item in items)
    ]


def _answer_batch(
    run: Run, subject: Subject, questions: Sequence[Question], settings: Sequence[Setting]
) -> Iterator[tuple[Setting, list[Answer]]]:
    """Answer a batch; a control that fails is left out of the run from now on."""
    if not questions or not settings:
        return iter(())

    def ask(waiting: Sequence[Setting]) -> Iterator[list[Answer]]:
        answered = answer_batch(
            subject.model,
            subject.processor,
            questions,
            waiting,
            text_tower=subject.text_tower,
            max_new_tokens=subject.max_new_tokens,
        )
        return (answers for _, answers in answered)

    return but_controls(settings, ask, run.leave_out)


def _line(item: Item, setting: Setting, answer: Answer, score: Metric) -> Prediction:
    index = grid = None
    if len(answer.items) == 1 and answer.kept < answer.tokens:
        (one,) = answer.items
        if len(one.grids) == 1 and not one.separators:
            index, grid = list(one.positions), list(one.grids[0])
    return {
        "id": item.id,
        "setting": setting.label,
        "task": item.task,
        "category": item.category,
        "question": item.question,
        "answers": list(item.answers),
        "image": item.image,
        "answer": answer.text,
        "score": score(answer.text, item.answers, item.choices),
        "tokens": answer.tokens,
        "kept": answer.kept,
        "index": index,
        "grid": grid,
        "ms": asdict(answer.ms),
    }
