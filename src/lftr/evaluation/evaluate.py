"""Ask every question under every setting, and write each answer down as it comes."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass
from typing import Any

import torch
import transformers
from PIL import Image

from .. import __version__
from ..errors import ArgumentError, LftrError, UnsupportedModelError
from ..methods.base import Method
from ..methods.inside import LayerMethod
from ..reduce import prepare, reduce
from .answering import Answer, answer_batch, inputs_for
from .data import Data
from .items import Item
from .jsonl import Problem
from .runs import FORMAT, Prediction, Run
from .scoring import Metric, get_metric
from .settings import CONTROLS, Setting, spell


@dataclass(frozen=True)
class Subject:
    """The model that is asked.

    Attributes
    ----------
    name : str
        What the run's configuration calls it.
    """

    name: str
    model: Any
    processor: Any
    text_tower: Any = None
    max_new_tokens: int = 8


def try_settings(
    subject: Subject, items: Sequence[Item], settings: Sequence[Setting]
) -> dict[str, str]:
    """Reduce one question's images under every setting, before hours are spent on the first.

    Returns
    -------
    dict of str to str
        Controls that this model cannot do, with the reason, for `Run.leave_out`.

    Raises
    ------
    LftrError
        If a setting fails whose method is no control.
    """
    held = next((one for item in items if (one := _held(item, []))), None)
    if held is None:
        return {}
    left_out: dict[str, str] = {}
    inputs = inputs_for(subject.model, subject.processor, [held])
    for setting in settings:
        try:
            on = reduce(
                subject.model,
                setting.method,
                keep=setting.keep,
                positions=setting.positions,
                text=held.question,
                processor=subject.processor,
                text_tower=subject.text_tower,
            )
            with on, torch.inference_mode():
                prepare(subject.model, **inputs)
        except LftrError as error:
            if setting.name not in CONTROLS:
                raise
            left_out[setting.name] = str(error)
    return left_out


def configuration(
    subject: Subject,
    data: Sequence[Data],
    settings: Sequence[Setting],
    *,
    metric: str,
    seed: int = 0,
) -> dict[str, Any]:
    """Return what tells one run from another, as plain values.

    Raises
    ------
    ArgumentError
        If an id is that of two questions, or two settings have one label.
    """
    ids = [item.id for one in data for item in one.items]
    _once("id", ids)
    _once("setting", [setting.label for setting in settings])
    return {
        "format": FORMAT,
        "lftr": __version__,
        "versions": {
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
        },
        "model": subject.name,
        "device": subject.model.device.type,
        "dtype": str(subject.model.dtype).removeprefix("torch."),
        "data": [one.describe() for one in data],
        "metric": metric,
        "settings": [_plain(setting) for setting in settings],
        "seed": seed,
        "max_new_tokens": subject.max_new_tokens,
    }


def _once(name: str, values: Sequence[str]) -> None:
    seen: set[str] = set()
    for value in values:
        if value in seen:
            raise ArgumentError.of(name, value, "one of each; there are two")
        seen.add(value)


def _plain(setting: Setting) -> dict[str, Any]:
    return {
        "label": setting.label,
        "method": setting.name,
        "options": {} if setting.full else _options(setting.method),
        "keep": spell(setting.keep),
        "positions": setting.positions,
    }


def _options(method: Method | LayerMethod) -> Any:
    if not is_dataclass(method):
        return {}
    values = {field.name: getattr(method, field.name) for field in fields(method) if field.init}
    return json.loads(json.dumps(values, default=repr))


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
    """Answer what the run does not hold yet; every answer is on the disk before the next batch.

    Batches are the same wherever a run was interrupted, so that its answers are too.

    Parameters
    ----------
    step : callable
        Called with a setting's label and its new lines.

    Returns
    -------
    list of Problem
        Questions whose images could not be read, once looked at; the others were asked.

    Raises
    ------
    LftrError
        If the model cannot go on. What was answered stays, and the same call goes on from there.
    """
    score = get_metric(metric)
    done = run.done()
    problems: list[Problem] = []
    for start in range(0, len(items), batch):
        members = items[start : start + batch]
        missing = [
            setting
            for setting in settings
            if setting.name not in run.left_out
            and any((item.id, setting.label) not in done for item in members)
        ]
        held = [one for item in members if missing and (one := _held(item, problems))]
        for setting, answers in _answered(run, subject, held, missing):
            lines = [
                _line(one.item, setting, answer, score)
                for one, answer in zip(held, answers, strict=True)
                if (one.item.id, setting.label) not in done
            ]
            run.add(lines)
            step(setting.label, lines)
    return problems


@dataclass(frozen=True)
class _Held:
    """A question with its images read."""

    item: Item
    images: Sequence[Image.Image]

    @property
    def question(self) -> str:
        return self.item.question


def _held(item: Item, problems: list[Problem]) -> _Held | None:
    try:
        return _Held(item, item.images)
    except LftrError as error:
        problems.append(Problem(item.id, str(error)))
        return None


def _answered(
    run: Run, subject: Subject, held: Sequence[_Held], settings: Sequence[Setting]
) -> Iterator[tuple[Setting, list[Answer]]]:
    """Answer a batch; a control that cannot, as downsample of tiled images, is left out from here.

    Whether a model cuts an image into tiles depends on the image: the first may not show it.
    """
    waiting = list(settings) if held else []
    while waiting:
        answered = answer_batch(
            subject.model,
            subject.processor,
            held,
            waiting,
            text_tower=subject.text_tower,
            max_new_tokens=subject.max_new_tokens,
        )
        count = 0
        try:
            for number, answers in answered:
                yield waiting[number], answers
                count = number + 1
            return
        except UnsupportedModelError as error:
            failed = waiting[count]
            if failed.name not in CONTROLS:
                raise
            run.leave_out(failed.name, str(error))
            waiting = [one for one in waiting[count + 1 :] if one.name != failed.name]


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
