"""``lftr demo``: what the library does, seen on the model inside the package."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from ...cli import options
from ...values.errors import ArgumentError

_DRAWN = 2  # scenes in the picture
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
    from ...methods import get_method, list_methods

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
    from ...cli.frame_sheet import save
    from ...cli.loading import load_model
    from ...cli.parsing import parse_device, parse_dtype
    from ...cli.terminal import print_json, progress, remark, say
    from ...methods.encoder.spelling import parse_merge
    from .. import suites
    from ..asking.items import Question
    from ..evaluation import compare, settings_of, with_merges
    from ..profiling import time_settings
    from .demo_tables import answers, met, picture, plain, table

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
    ratios, note = met(loaded, own)
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
    save(picture(loaded, examples[:_DRAWN], outcomes, method), path)
    whole = table(outcomes, times, model)
    if as_json:
        print_json(plain(outcomes, times, examples, path, model))
    elif markdown:
        print(whole.markdown())
    else:
        answers(examples, outcomes, method).print()
        whole.print()
        say(f"picture: {path}")


def _serve(method: str, device: str | None, dtype: str, host: str, port: int | None) -> None:
    """Serve the page, its model warmed up, until the user interrupts."""
    from ...cli.loading import load_model
    from ...cli.parsing import parse_device, parse_dtype
    from ...cli.terminal import say, working
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
