"""``lftr verify``: the proof that a reduction is right on this model, its weights and versions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import options


def verify(
    images: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[IMAGE]...", help="Image files to ask about; else random ones."),
    ] = None,
    model: options.Model = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            "--method",
            help="A name that `lftr methods` lists, or a composition; may be repeated; by default "
            "lftr.",
        ),
    ] = None,
    keep: Annotated[
        str | None,
        typer.Option("--keep", help="A ratio (1/16, 0.25); by default 1/4."),
    ] = None,
    tokens: options.Tokens = None,
    option: options.Options = None,
    positions: options.Positions = None,
    weights: options.Weights = None,
    text_tower: options.Tower = None,
    full: Annotated[
        bool,
        typer.Option(
            "--full",
            help="Also beams, sampling, a static cache, prompt lookup, more prompts and methods.",
        ),
    ] = False,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the random images.")] = 0,
    device: options.Device = None,
    dtype: options.Dtype = "auto",
    as_json: options.Json = False,
) -> None:
    """Prove that reductions of a model are right, with its weights and the versions installed.

    Compares with the plain model: keep=1.0, prefill and decoding, a second turn, a padded batch,
    two images, a video, a method inside the language model. Exits with 1 if a check fails, or if
    one that is necessary was skipped.
    """
    from ..media.picture import read_image
    from ..values.budget import as_arguments
    from ..verifying import methods_to_check
    from ..verifying import verify as prove
    from .loading import load_model
    from .parsing import parse_budget, parse_methods
    from .terminal import print_json, progress, say

    chosen = parse_methods(method or ["lftr"], option or [])
    budget = parse_budget(keep, tokens)
    methods_to_check(chosen, budget)  # refuses before a model is loaded
    pictures = [read_image(path) for path in images or []]
    loaded = load_model(model, device, dtype, chosen, text_tower)
    with progress("checking", 1) as bar:

        def show_progress(name: str, number: int, total: int) -> None:
            bar.update(
                bar.task_ids[0], description=f"checking: {name}", completed=number, total=total
            )

        result = prove(
            loaded.model,
            loaded.processor,
            chosen,
            **as_arguments(budget),
            positions=positions,
            weights=weights,
            full=full,
            images=pictures,
            text_tower=loaded.text_tower,
            seed=seed,
            told=show_progress,
        )
    if as_json:
        print_json({"name": loaded.name, **result.to_dict()})
    else:
        say(str(result))
    if not result.ok:
        raise typer.Exit(1)
