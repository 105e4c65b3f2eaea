"""``lftr run``: ask a model about images, from a fraction of their tokens."""

from __future__ import annotations

import os.path
import time
from pathlib import Path
from typing import Annotated

import typer

from ..values.errors import ArgumentError, raise_unanswered
from . import options


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
        typer.Option("--preset", help="File with method and budget, as `lftr tune` writes it."),
    ] = None,
    method: options.MethodNames = None,
    keep: options.Keep = None,
    tokens: options.Tokens = None,
    option: options.Options = None,
    encoder: options.Encoder = None,
    weights: options.Weights = None,
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
    import torch

    from ..presets import Preset
    from ..reducing import check_budget
    from .loading import load_model
    from .media_args import moves, read_media
    from .parsing import parse_setting
    from .terminal import print_json, remark, say, show_spinner

    *paths, question = words
    if not paths or os.path.exists(question):
        allowed = 'image files, videos or folders of frames, then a "question"'
        raise ArgumentError.of("IMAGE", question, allowed)
    if preset is None:
        chosen = parse_setting(method, keep, tokens, option, positions, encoder, weights)
    else:
        by_hand = {"--method": method, "--keep": keep, "--tokens": tokens}
        by_hand |= {"--option": option, "--positions": positions, "--encoder": encoder}
        by_hand |= {"--weights": weights}
        options.refuse(by_hand, "beside --preset")
        chosen = Preset.load(preset)
        check_budget(chosen.method, chosen.budget)
    media = read_media(paths, frames, fps)
    loaded = load_model(model, device, dtype, chosen.methods, text_tower, moves(media))
    note = chosen.note(loaded.name)
    inputs, on = loaded.inputs(media, question), loaded.reduce(chosen, media, question)
    with raise_unanswered(), on as reduction, torch.inference_mode(), show_spinner("answering"):
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
    say(answer)
    say(str(reduction.report), style="dim")
    if note is not None:
        remark(f"note: {note}")
