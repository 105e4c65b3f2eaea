"""``lftr demo``: what the library does, seen on the model inside the package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ...cli import options
from ...values.errors import ArgumentError

_DRAWN = 2  # scenes in the picture
_TIMED = 7  # most questions that are timed one by one


def demo(
    questions: Annotated[
        int, typer.Option(min=1, help="How many questions of the test split are asked.")
    ] = 240,
    out: Annotated[Path, typer.Option("--out", help="Folder for the picture.")] = Path("lftr-demo"),
    method: options.MethodName = None,
    encoder: options.Encoders = None,
    weights: options.Weights = None,
    suite: Annotated[
        str, typer.Option("--suite", help="scenes, or clips with the bundled model of clips.")
    ] = "scenes",
    device: options.Device = None,
    dtype: options.Dtype = "auto",
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the table alone.")] = False,
    as_json: options.Json = False,
) -> None:
    """Compare the full model with LFTR and the controls at 4x, 8x and 16x fewer visual tokens.

    A method that cannot keep so few is shown at what it can, and that is said. Uses a small model
    inside the package and scenes, or clips, that it was not trained on.
    """
    from ...cli.frame_sheet import save
    from ...cli.loading import load_model
    from ...cli.terminal import print_json, progress, remark, say
    from ...methods import get_method
    from ...methods.encoder.spelling import parse_merge
    from .. import suites
    from ..asking.items import Question
    from ..asking.settings import with_weights
    from ..evaluation import compare, settings_of, with_merges
    from ..profiling import time_settings
    from .demo_tables import answers, picture, plain, possible_ratios, table

    if as_json:
        options.refuse({"--markdown": markdown}, "beside --json")
    chosen = get_method(method or "lftr")
    merges = list(map(parse_merge, encoder or []))
    examples = list(suites.load(suite, split="test", n=questions, seed=0))
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArgumentError.of("--out", str(out), f"a folder to write to ({error})") from None
    loaded = load_model(None, device, dtype, [chosen], clips=suite == "clips")
    model, processor, tower = loaded.model, loaded.processor, loaded.text_tower
    ratios, note = possible_ratios(loaded, chosen)
    if note is not None:
        remark(f"note: {note}")
    settings = with_merges(settings_of(ratios, chosen), merges, [chosen])
    settings = with_weights(settings, weights)
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
    save(picture(loaded, examples[:_DRAWN], outcomes, str(chosen)), path)
    whole = table(outcomes, times, model)
    if as_json:
        print_json(plain(outcomes, times, examples, path, model))
    elif markdown:
        print(whole.markdown())
    else:
        answers(examples, outcomes, str(chosen)).print()
        whole.print()
        say(f"picture: {path}")
