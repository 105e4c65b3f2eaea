"""``lftr demo``: what the library does, seen on the model inside the package."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
import typer
from PIL import Image

from ..drawing import below, beside, draw_frames, draw_item, shown_part
from ..errors import ArgumentError
from ..media import Clip
from ..merges import parse_merge
from ..methods import get_method, list_methods
from ..methods.base import Method
from ..methods.inside import LayerMethod
from ..prompting import Medium, inputs_of
from ..reduce import prepare, reduce
from ..report import ItemReport
from . import options
from .loading import Loaded, load_model
from .parsing import parse_device, parse_dtype
from .sheet import sheet
from .show import save
from .terminal import Table, print_json, progress, remark, say, working

if TYPE_CHECKING:
    from ..evaluation import Outcome
    from ..profiling import Times
    from ..suites import Clip as DrawnClip
    from ..suites import Example

    Drawn = Example | DrawnClip

RATIOS = (4, 8, 16)
_MILDER = (3, 2, 1.5)  # for methods that cannot keep so few, as those that begin inside the model
_SHOWN = 5  # scenes whose answers are printed
_DRAWN = 2  # scenes in the picture
_LENGTH = 288  # pixels of an image's side in the picture
_SCENES = 12  # to pick from on the page
_TIMED = 7  # most questions that are timed one by one


def demo(
    questions: Annotated[
        int | None,
        typer.Option(min=1, help="How many questions of the test split are asked; by default 240."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for the picture; by default lftr-demo.")
    ] = None,
    method: options.MethodName = None,
    encoder: options.Encoders = None,
    suite: Annotated[
        str | None,
        typer.Option("--suite", help="scenes, or clips with the bundled model of clips."),
    ] = None,
    device: options.Device = None,
    dtype: options.Dtype = "auto",
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the table alone.")] = False,
    as_json: options.Json = False,
    web: Annotated[
        bool, typer.Option("--web", help="Serve a page to try it out, instead of the table.")
    ] = False,
    host: Annotated[
        str | None,
        typer.Option("--host", help="With --web: by default 127.0.0.1, this machine alone."),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option("--port", min=1, max=65535, help="With --web; by default 7860 or above."),
    ] = None,
) -> None:
    """Compare the full model with LFTR and the controls at 4x, 8x and 16x fewer visual tokens.

    A method that cannot keep so few is shown at what it can, and that is said. Uses a small model
    inside the package and scenes, or clips, that it was not trained on.
    """
    method = method or "lftr"
    if web:
        unheard: dict[str, object] = {"--json": as_json, "--markdown": markdown}
        unheard |= {"--encoder": encoder, "--suite": suite, "--questions": questions, "--out": out}
        options.refuse(unheard, "beside --web")
        if method not in list_methods("before"):
            allowed = "with --web, one that `lftr methods` lists as acting before the model"
            raise ArgumentError.of("--method", method, allowed)
        _serve(get_method(method).name, device, dtype, host or "127.0.0.1", port)
        return
    options.refuse({"--host": host, "--port": port}, "without --web")
    if as_json:
        options.refuse({"--markdown": markdown}, "beside --json")
    suite, out = suite or "scenes", out or Path("lftr-demo")
    from .. import suites
    from ..evaluation import compare, settings_of, with_merges
    from ..evaluation.items import Question
    from ..profiling import time_settings

    own = get_method(method)
    merges = list(map(parse_merge, encoder or []))
    examples = list(suites.load(suite, split="test", n=questions or 240, seed=0))
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArgumentError.of("--out", str(out), f"a folder to write to ({error})") from None
    loaded = load_model(
        None,
        parse_device(device),
        parse_dtype(dtype),
        needs_tower=options.needs_tower([own]),
        clips=suite == "clips",
    )
    model, processor, tower = loaded.model, loaded.processor, loaded.text_tower
    ratios, note = _met(loaded, own)
    if note is not None:
        remark(f"note: {note}")
    settings = with_merges(settings_of(ratios, own), merges, [own])
    with progress("asking", len(settings) * len(examples)) as bar:
        outcomes = compare(
            model,
            processor,
            examples,
            settings,
            text_tower=tower,
            step=bar.step,
        )
    timed = [Question.of(one) for one in examples[: max(1, min(_TIMED, len(examples) // 8))]]
    with progress("timing", len(settings) * (len(timed) + 1)) as bar:
        times = time_settings(
            model,
            processor,
            timed,
            settings,
            text_tower=tower,
            step=bar.step,
        )
    path = out / "lftr-demo.png"
    save(_picture(loaded, examples[:_DRAWN], outcomes, method), path)
    table = _table(outcomes, times, model)
    if as_json:
        print_json(_plain(outcomes, times, examples, path, model))
    elif markdown:
        print(table.markdown())
    else:
        _answers(examples[:_SHOWN], outcomes, method).print()
        table.print()
        say(f"picture: {path}")


def _serve(method: str, device: str | None, dtype: str, host: str, port: int | None) -> None:
    """Serve the page, its model warmed up, until the user interrupts."""
    from .. import suites
    from ..web.comparison import compare_answers
    from ..web.page import build
    from ..web.server import serve

    loaded = load_model(None, parse_device(device), parse_dtype(dtype), needs_tower=True)
    ask = partial(compare_answers, loaded.model, loaded.processor, loaded.text_tower)
    scenes = list(suites.load("scenes", split="test", n=_SCENES, seed=0))
    with working("warming up"):
        ask(scenes[0].image, scenes[0].question, method, "1/16")
    page = build(ask, scenes, method)
    serve(page, host, port, lambda url: say(f"serving, until Ctrl+C: {url}"))


def _met(loaded: Loaded, method: Method | LayerMethod) -> tuple[Sequence[float], str | None]:
    """Return by how many times a method can reduce on this model, and why not by more."""
    reason = None
    rising = (*reversed(_MILDER), *RATIOS)
    for place in range(len(rising), 0, -1):
        try:
            keep = 1 / rising[place - 1]
            reduce(loaded.model, method, keep=keep, text_tower=loaded.text_tower).remove()
        except ArgumentError as error:
            reason = str(error)
            continue
        break
    else:
        raise ArgumentError.of("method", method.name, f"one that can be given a budget; {reason}")
    ratios = rising[max(place - len(RATIOS), 0) : place]
    if reason is None:
        return ratios, None
    shown = ", ".join(f"{one:g}x" for one in ratios)
    return ratios, f"{method.name} is shown at {shown}, not at more: {reason}"


def _ratio(outcome: Outcome) -> str:
    keep = outcome.setting.keep
    return "full" if outcome.setting.full else f"{1 / float(keep):.3g}x"  # type: ignore[arg-type]


def _table(outcomes: Sequence[Outcome], times: Sequence[Times], model: Any) -> Table:
    full = outcomes[0]
    threads = f"{torch.get_num_threads()} threads" if model.device.type == "cpu" else "GPU"
    table = Table(
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
            table.rule()
        table.add(
            _ratio(outcome),
            outcome.setting.label,
            f"{outcome.tokens:g}",
            f"{outcome.accuracy:.1%}",
            f"{outcome.accuracy / full.accuracy:.1%}" if full.accuracy else "-",
            f"{outcome.agreement(full):.1%}",
            f"{ms.encoder.median:.1f}",
            f"{ms.after_encoder.median:.1f}",
        )
    return table


def _answers(examples: Sequence[Drawn], outcomes: Sequence[Outcome], method: str) -> Table:
    shown = [o for o in outcomes if o.setting.full or o.setting.label == method]
    heads = [_ratio(o) if o.setting.full else f"{method} {_ratio(o)}" for o in shown]
    table = Table(["question", "right answer", *heads], title="Some of the answers")
    for i, example in enumerate(examples):
        table.add(example.question, example.answer, *(outcome.answers[i] for outcome in shown))
    return table


def _picture(
    loaded: Loaded, examples: Sequence[Drawn], outcomes: Sequence[Outcome], method: str
) -> Image.Image:
    """Draw the image, then what each reduction by ``method`` kept of it, a row for each scene."""
    from ..evaluation.items import Question

    full, *reduced = [o for o in outcomes if o.setting.full or o.setting.label == method]
    rows = []
    for i, example in enumerate(examples):
        asked = Question.of(example)
        (medium,) = asked.images
        inputs = inputs_of(loaded.processor, asked.images, asked.question)
        inputs = inputs.to(loaded.model.device, dtype=loaded.model.dtype)
        pictures, captions = [], []
        for outcome in reduced:
            on = outcome.setting.reduce(
                loaded.model, [asked], processor=loaded.processor, text_tower=loaded.text_tower
            )
            with on as reduction, torch.inference_mode():
                prepare(loaded.model, **inputs)
            item = reduction.report.items[0]
            pictures.append(_kept(item, medium, loaded.processor))
            captions.append(f"{method}, {item.kept} of {item.tokens} tokens: {outcome.answers[i]}")
        plain = _plainly(medium, loaded.processor, pictures[0].size)
        first = f"{example.question}\nall tokens: {full.answers[i]} (right: {example.answer})"
        rows.append(beside([plain, *pictures], [first, *captions]))
    return below(rows).quantize(128, dither=Image.Dither.NONE)  # a fourth of the file


def _kept(item: ItemReport, medium: Medium, processor: Any) -> Image.Image:
    """Draw what stayed of an image, or of a clip frame by frame."""
    if isinstance(medium, Clip):
        shown = [shown_part(processor, frame) for frame in medium.frames]
        return sheet(draw_frames(item, shown, _LENGTH // 2))
    return draw_item(item, shown_part(processor, medium), _LENGTH)


def _plainly(medium: Medium, processor: Any, size: tuple[int, int]) -> Image.Image:
    """Draw what the model is shown, at a size."""
    if isinstance(medium, Clip):
        whole = sheet([shown_part(processor, frame) for frame in medium.frames])
    else:
        whole = shown_part(processor, medium)
    return whole.resize(size, Image.Resampling.BICUBIC)


def _plain(
    outcomes: Sequence[Outcome],
    times: Sequence[Times],
    examples: Sequence[Drawn],
    path: Path,
    model: Any,
) -> dict[str, Any]:
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
            "answers": outcome.answers[:_SHOWN],
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
            for e in examples[:_SHOWN]
        ],
        "rows": rows,
    }
