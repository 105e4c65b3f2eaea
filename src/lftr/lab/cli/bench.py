"""``lftr bench``: what a reduction costs and saves, part by part."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ...cli import options
from ...values.errors import ArgumentError


def bench(
    model: options.Model = None,
    method: options.Methods = ["lftr"],  # noqa: B006  (typer reads it, nobody writes to it)
    keep: options.Keeps = None,
    tokens: options.Counts = None,
    option: options.Options = None,
    encoder: options.Encoders = None,
    weights: options.Weights = None,
    positions: options.Positions = None,
    against: Annotated[
        str | None,
        typer.Option(
            "--against",
            help="full: measure the full model too, and the plain model on prompts of as few "
            "tokens; print ratios.",
        ),
    ] = None,
    image: Annotated[
        Path | None,
        typer.Option(
            "--image",
            "--video",
            help="Image or clip to measure with; by default a random picture of smooth colours.",
        ),
    ] = None,
    suite: Annotated[
        str | None,
        typer.Option("--suite", help="Ask the first question of a suite instead: scenes, clips."),
    ] = None,
    frames: options.Frames = None,
    fps: options.Fps = None,
    question: Annotated[
        str | None,
        typer.Option("--question", help="The question; by default what is in the picture."),
    ] = None,
    batch: Annotated[
        list[int],
        typer.Option("--batch", min=1, help="Questions per batch; may be repeated."),
    ] = [1],  # noqa: B006
    resolution: Annotated[
        list[str] | None,
        typer.Option("--resolution", help="Width x height in pixels, as 672x672; may be repeated."),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="How often each is timed.")] = 10,
    decode: Annotated[
        int, typer.Option(min=1, help="Tokens to generate, for the time of one.")
    ] = 8,
    text_tower: options.Tower = None,
    device: options.Device = None,
    dtype: options.Dtype = "auto",
    as_json: options.Json = False,
) -> None:
    """Time encoder, method, prefill and decoding each on its own; count memory and operations."""
    from ...cli.loading import load_model
    from ...cli.media_args import moves
    from ...cli.terminal import print_json, progress
    from ..asking.items import Question
    from ..profiling import Call
    from ..profiling import bench as measure
    from .asking import parse_settings
    from .bench_media import described, medium_of, resized
    from .bench_tables import plain, tables

    if against not in (None, "full"):
        raise ArgumentError.of("--against", against, "full")
    methods, settings = parse_settings(
        method, option, keep, tokens, encoder, positions, weights, controls=()
    )
    settings = settings if against else settings[1:]
    medium, prompt = medium_of(image, suite, frames, fps, question)
    media = resized(medium, resolution or [])
    loaded = load_model(model, device, dtype, methods, text_tower, moves(media))
    calls = [
        Call.of(
            loaded.model,
            loaded.processor,
            [Question((medium,), prompt)] * count,
            loaded.text_tower,
            f"{described(medium)}, batch {count}",
        )
        for medium in media
        for count in batch
    ]
    with progress("measuring", len(calls) * len(settings) * (rounds + 1)) as bar:
        measured = measure(
            calls,
            settings,
            rounds=rounds,
            decode=decode,
            limit=against is not None,
            step=bar.step,
        )
    if as_json:
        print_json(plain(measured, loaded.name, rounds))
        return
    for table in tables(measured, loaded.name, rounds):
        table.print()
