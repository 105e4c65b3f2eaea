"""Ask every question under every setting, and write each answer down as it comes."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass
from typing import Any

import torch
import transformers
from PIL import Image

from .. import __version__
from ..errors import ArgumentError, LftrError, UnsupportedModelError
from ..evidence.text import TextTower
from ..methods.base import Method
from ..methods.encoder import EncoderMerge
from ..methods.inside import LayerMethod
from .answering import Answer, answer_batch, one_batch
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
    """Ask one question under every setting, before hours are spent on the first.

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
    with one_batch(
        subject.model, subject.processor, [held], text_tower=subject.text_tower, max_new_tokens=1
    ) as ask:
        for setting in settings:
            try:
                ask(setting)
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
    _check_ids(data)
    _check_labels(settings)
    return {
        "format": FORMAT,
        "lftr": __version__,
        "versions": {
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
        },
        "model": subject.name,
        "text_tower": subject.text_tower and _tower(subject.text_tower),
        "device": subject.model.device.type,
        "dtype": str(subject.model.dtype).removeprefix("torch."),
        "data": [one.describe() for one in data],
        "metric": metric,
        "settings": [_plain(setting) for setting in settings],
        "seed": seed,
        "max_new_tokens": subject.max_new_tokens,
    }


def _check_ids(data: Sequence[Data]) -> None:
    seen: dict[str, str] = {}
    for one in data:
        for item in one.items:
            if item.id in seen:
                allowed = (
                    f"one of each; {seen[item.id]} and {one.source} both have it: write an 'id' "
                    "into the lines of one, or run them apart"
                )
                raise ArgumentError.of("id", item.id, allowed)
            seen[item.id] = one.source


def _check_labels(settings: Sequence[Setting]) -> None:
    seen: set[str] = set()
    for setting in settings:
        if setting.label in seen:
            raise ArgumentError.of("setting", setting.label, "one of each; there are two")
        seen.add(setting.label)


def _plain(setting: Setting) -> dict[str, Any]:
    return {
        "label": setting.label,
        "method": setting.name,
        "options": {} if setting.full else _options(setting.method),
        "keep": spell(setting.keep),
        "positions": setting.positions,
        "encoder": setting.encoder
        and {"method": type(setting.encoder).__name__, "options": _options(setting.encoder)},
    }


def _tower(tower: TextTower) -> str:
    """Return the id or path of a text tower; the name of its class where it has neither."""
    model = tower.text_model
    return getattr(model, "name_or_path", "") or type(model).__name__


def _options(method: Method | LayerMethod | EncoderMerge) -> Any:
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
        going = [setting for setting in settings if setting.name not in run.left_out]
        unread = bool(_missing(going, members, done))
        held = [one for item in members if unread and (one := _held(item, problems))]
        missing = _missing(going, [one.item for one in held], done)
        for setting, answers in _answered(run, subject, held, missing):
            lines = [
                _line(one.item, setting, answer, score)
                for one, answer in zip(held, answers, strict=True)
                if (one.item.id, setting.label) not in done
            ]
            run.add(lines)
            step(setting.label, lines)
    return problems


def _missing(
    settings: Sequence[Setting], items: Sequence[Item], done: Collection[tuple[str, str]]
) -> list[Setting]:
    """Return the settings under which some of ``items`` have not been answered."""
    return [
        setting
        for setting in settings
        if any((item.id, setting.label) not in done for item in items)
    ]


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
