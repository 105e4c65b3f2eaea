"""The output of ``lftr demo``: tables, plain values, and a picture of some scenes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ...cli.frame_sheet import sheet
from ...cli.loading import Loaded
from ...cli.terminal import Table
from ...drawing import draw_frames, draw_item, processed_part, stack_horizontally, stack_vertically
from ...evidence.guidance import Guidance
from ...media import Clip
from ...methods.base import Method
from ...methods.inside import LayerMethod
from ...prompting import ImageOrClip
from ...reducing import reduce
from ...values.errors import ArgumentError
from ...values.report import ItemReport
from ..asking.items import Question
from ..evaluation import Outcome
from ..profiling import Times
from ..suites import ClipExample, Example

AnyExample = Example | ClipExample

RATIOS = (4, 8, 16)
_MILDER = (3, 2, 1.5)  # for methods that cannot keep so few, as those that begin inside the model
_PRINTED = 5  # scenes whose answers are printed
_LENGTH = 288  # pixels of an image's side in the picture


def possible_ratios(
    loaded: Loaded, method: Method | LayerMethod
) -> tuple[Sequence[float], str | None]:
    """Return the ratios by which a method can reduce this model, and why not by higher ones."""
    reason, guidance = None, Guidance(text_tower=loaded.text_tower)
    rising = (*reversed(_MILDER), *RATIOS)
    for place in range(len(rising), 0, -1):
        try:
            keep = 1 / rising[place - 1]
            reduce(loaded.model, method, keep=keep, guidance=guidance).remove()
        except ArgumentError as error:
            reason = str(error)
            continue
        break
    else:
        raise ArgumentError.of("method", str(method), f"one that can be given a budget; {reason}")
    ratios = rising[max(place - len(RATIOS), 0) : place]
    if reason is None:
        return ratios, None
    factors = ", ".join(f"{one:g}x" for one in ratios)
    return ratios, f"{method} is shown at {factors}, not at more: {reason}"


def _ratio(outcome: Outcome) -> str:
    keep = outcome.setting.keep
    return "full" if outcome.setting.full else f"{1 / float(keep):.3g}x"  # type: ignore[arg-type]


def table(outcomes: Sequence[Outcome], times: Sequence[Times], model: Any) -> Table:
    """Return a row for each setting: tokens, accuracy, agreement and times."""
    full = outcomes[0]
    threads = f"{torch.get_num_threads()} threads" if model.device.type == "cpu" else "GPU"
    rows = Table(
        [
            "reduction",
            "method",
            "visual tokens>",
            "accuracy>",
            "of full>",
            "agrees with full>",
            "encoder ms>",
            "prefill ms>",
        ],
        title=f"{len(full.answers)} questions of the test split",
        caption=(
            f"Prefill: method, bookkeeping and language model up to the first token, one question "
            f"at a time, median of {len(times[0].parts)} ({threads}). The encoder comes on top; "
            "for downsample it runs twice here, at full size and at the small one."
        ),
    )
    for number, (outcome, ms) in enumerate(zip(outcomes, times, strict=True)):
        if number and _ratio(outcome) != _ratio(outcomes[number - 1]):
            rows.rule()
        rows.add(
            _ratio(outcome),
            outcome.setting.label,
            f"{outcome.tokens:g}",
            f"{outcome.accuracy:.1%}",
            f"{outcome.accuracy / full.accuracy:.1%}" if full.accuracy else "-",
            f"{outcome.agreement(full):.1%}",
            f"{ms.encoder.median:.1f}",
            f"{ms.after_encoder.median:.1f}",
        )
    return rows


def answers(examples: Sequence[AnyExample], outcomes: Sequence[Outcome], method: str) -> Table:
    """Return some questions with the answers of the full model and of one method."""
    printed = [o for o in outcomes if o.setting.full or o.setting.label == method]
    heads = [_ratio(o) if o.setting.full else f"{method} {_ratio(o)}" for o in printed]
    rows = Table(["question", "right answer", *heads], title="Some of the answers")
    for i, example in enumerate(examples[:_PRINTED]):
        rows.add(example.question, example.answer, *(outcome.answers[i] for outcome in printed))
    return rows


def picture(
    loaded: Loaded, examples: Sequence[AnyExample], outcomes: Sequence[Outcome], method: str
) -> Image.Image:
    """Draw the image, then what each reduction by ``method`` kept of it, a row for each scene."""
    full, *reduced = [o for o in outcomes if o.setting.full or o.setting.label == method]
    rows = []
    for i, example in enumerate(examples):
        question = Question.of(example)
        (medium,) = question.images
        inputs = loaded.inputs(question.images, question.question)
        pictures, captions = [], []
        for outcome in reduced:
            on = outcome.setting.reduce(
                loaded.model, [question], processor=loaded.processor, text_tower=loaded.text_tower
            )
            with on as reduction, torch.inference_mode():
                loaded.model(**inputs)  # for the report
            item = reduction.report.items[0]
            pictures.append(_draw_kept(item, medium, loaded.processor))
            captions.append(f"{method}, {item.kept} of {item.tokens} tokens: {outcome.answers[i]}")
        plain = _draw_input(medium, loaded.processor, pictures[0].size)
        first = f"{example.question}\nall tokens: {full.answers[i]} (right: {example.answer})"
        rows.append(stack_horizontally([plain, *pictures], [first, *captions]))
    return stack_vertically(rows).quantize(128, dither=Image.Dither.NONE)  # a fourth of the file


def _draw_kept(item: ItemReport, medium: ImageOrClip, processor: Any) -> Image.Image:
    """Draw what stayed of an image, or of a clip frame by frame."""
    if isinstance(medium, Clip):
        frames = [processed_part(processor, frame) for frame in medium.frames]
        return sheet(draw_frames(item, frames, _LENGTH // 2))
    return draw_item(item, processed_part(processor, medium), _LENGTH)


def _draw_input(medium: ImageOrClip, processor: Any, size: tuple[int, int]) -> Image.Image:
    """Draw what the model is shown, at a size."""
    if isinstance(medium, Clip):
        whole = sheet([processed_part(processor, frame) for frame in medium.frames])
    else:
        whole = processed_part(processor, medium)
    return whole.resize(size, Image.Resampling.BICUBIC)


def plain(
    outcomes: Sequence[Outcome],
    times: Sequence[Times],
    examples: Sequence[AnyExample],
    path: Path,
    model: Any,
) -> dict[str, Any]:
    """Return what `table` and `answers` show as plain values."""
    full = outcomes[0]
    rows = [
        {
            "reduction": _ratio(outcome),
            "method": outcome.setting.label,
            "tokens": outcome.tokens,
            "accuracy": outcome.accuracy,
            "relative_accuracy": outcome.accuracy / full.accuracy if full.accuracy else None,
            "agreement": outcome.agreement(full),
            "encoder_ms": ms.encoder.median,
            "prefill_ms": ms.after_encoder.median,
            "prefill_iqr_ms": ms.after_encoder.width,
            "answers": outcome.answers[:_PRINTED],
        }
        for outcome, ms in zip(outcomes, times, strict=True)
    ]
    return {
        "questions": len(full.answers),
        "device": str(model.device),
        "threads": torch.get_num_threads(),
        "picture": str(path),
        "examples": [
            {"question": e.question, "answer": e.answer, "scene": e.scene}
            for e in examples[:_PRINTED]
        ],
        "rows": rows,
    }
