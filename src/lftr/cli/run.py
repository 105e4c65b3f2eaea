"""``lftr run``: ask a model about images, from a fraction of their tokens."""

from __future__ import annotations

import os.path
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from ..errors import ArgumentError
from ..merges import parse_merge
from ..methods.base import Method
from ..presets import Preset
from ..prompting import frames_as_images, inputs_of
from ..reduce import reduce
from . import options
from .loading import load_model
from .parsing import parse_device, parse_dtype, parse_method
from .sights import moves, read_sights
from .terminal import print_json, stderr, stdout, working


def run(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar='IMAGE|CLIP... "question"',
            help="Image files, videos, animated GIFs or folders of frames, then the question.",
        ),
    ],
    model: options.Model = None,
    preset: Annotated[
        Path | None,
        typer.Option("--preset", help="What `lftr tune` found: method, options, keep, positions."),
    ] = None,
    method: Annotated[
        str | None, typer.Option("--method", help="A name that `lftr methods` lists; or lftr.")
    ] = None,
    keep: Annotated[
        str | None,
        typer.Option("--keep", help="A ratio (1/16, 0.25) or a count for each image; or 1/16."),
    ] = None,
    option: options.Options = None,
    encoder: options.Encoder = None,
    frames: options.Frames = None,
    fps: options.Fps = None,
    positions: options.Positions = None,
    text_tower: options.Tower = None,
    device: options.Device = None,
    dtype: options.Dtype = "auto",
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Length of the answer.")] = 64,
    as_json: options.Json = False,
) -> None:
    """Ask a question about images or a video; prints the answer and what was dropped.

    Videos need PyAV (the extra video). Without --model, the bundled model of clips answers about
    a clip; it knows clips as `lftr.suites` draws them.
    """
    *paths, question = words
    if not paths or os.path.exists(question):
        allowed = 'image files, videos or folders of frames, then a "question"'
        raise ArgumentError.of("IMAGE", question, allowed)
    by_hand = {
        "--method": method,
        "--keep": keep,
        "--option": option,
        "--positions": positions,
        "--encoder": encoder,
    }
    chosen = _by_hand(by_hand) if preset is None else _load(preset, by_hand)
    media = read_sights(paths, frames, fps)
    loaded = load_model(
        model,
        parse_device(device),
        parse_dtype(dtype),
        text_tower,
        options.needs_tower(chosen.methods),
        moves(media),
    )
    note = chosen.note(loaded.name)
    inputs = inputs_of(loaded.processor, media, question)
    inputs = inputs.to(loaded.model.device, dtype=loaded.model.dtype)
    on = reduce(
        loaded.model,
        **chosen.arguments(),
        text=question,
        processor=loaded.processor,
        text_tower=loaded.text_tower,
        images_as_video=frames_as_images(loaded.processor, [media]),
    )
    with on as reduction, torch.inference_mode(), working("answering"):
        start = time.perf_counter()
        ids = loaded.model.generate(**inputs, do_sample=False, max_new_tokens=max_new_tokens)
        seconds = time.perf_counter() - start
    new = ids[:, inputs["input_ids"].shape[1] :]
    answer = loaded.processor.batch_decode(new, skip_special_tokens=True)[0].strip()
    if as_json:
        print_json(
            {
                "answer": answer,
                "model": loaded.name,
                "question": question,
                "images": paths,
                "seconds": seconds,
                "note": note,
                "report": reduction.report.to_dict(),
            }
        )
        return
    console = stdout()
    console.print(answer, markup=False, highlight=False, soft_wrap=True)
    console.print(str(reduction.report), markup=False, style="dim", soft_wrap=True)
    if note is not None:
        stderr().print(f"note: {note}", markup=False, highlight=False, soft_wrap=True)


def _by_hand(given: Mapping[str, Any]) -> Preset:
    """Return what the options say; without them LFTR, at a sixteenth."""
    method = parse_method(given["--method"] or "lftr", given["--option"] or [])
    keep = given["--keep"]
    if keep is None and isinstance(method, Method):  # inside the model, schedules say how many
        keep = "1/16"
    merge = given["--encoder"]
    return Preset(
        method, keep, given["--positions"], encoder=None if merge is None else parse_merge(merge)
    )


def _load(path: Path, given: Mapping[str, Any]) -> Preset:
    """Return a preset, which leaves nothing to be given by hand."""
    other = next((name for name, value in given.items() if value), None)
    if other is not None:
        raise ArgumentError.of(other, given[other], "no such option beside --preset")
    return Preset.load(path)
