"""``lftr fit``: train the small part of a method to a model's own answers."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...cli import options

if TYPE_CHECKING:
    from ..asking.items import Item
    from ..asking.problems import Problem
    from ..asking.subject import Subject


def fit(
    workload: Annotated[
        str,
        typer.Argument(
            help="A folder of images or videos with prompts.txt (or --prompt), a JSONL file with "
            "image or video and question, or a suite (scenes, clips), of which the split train."
        ),
    ] = "scenes",
    model: options.Model = None,
    method: Annotated[
        str,
        typer.Option(
            "--method",
            help="scorer, visual-grouping, two-expert, region-router, or dyvte (its gates).",
        ),
    ] = "scorer",
    option: options.Options = None,
    keep: Annotated[
        list[str] | None,
        typer.Option("--keep", help="Ratios to fit at; by default 1/16 and 1/32."),
    ] = None,
    tokens: Annotated[
        list[int] | None,
        typer.Option("--tokens", min=1, help="In place of --keep: counts for each image or clip."),
    ] = None,
    prompt: Annotated[
        list[str] | None,
        typer.Option("--prompt", help="Question about every image of a folder."),
    ] = None,
    frames: options.Frames = None,
    fps: options.Fps = None,
    n: Annotated[
        int | None,
        typer.Option("--n", min=1, help="At most so many questions; by default 240 of a suite."),
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps of the optimiser.")] = 300,
    learning_rate: Annotated[
        float, typer.Option(help="Learning rate of the first step; it falls.")
    ] = 3e-3,
    relation: Annotated[
        float | None,
        typer.Option(help="Weight of the loss on relations among visual tokens; by default 0.5."),
    ] = None,
    seed: Annotated[
        int, typer.Option("--seed", min=0, help="Seed of the fit, and of a suite.")
    ] = 0,
    batch: options.Batch = 4,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Length of an answer.")] = 8,
    out: Annotated[
        Path, typer.Option("-o", "--out", help="Where the fitted part is written.")
    ] = Path("lftr-fitted.safetensors"),
    device: options.Device = None,
    dtype: options.Dtype = "auto",
    as_json: options.Json = False,
) -> None:
    """Fit a small part of a method to the answers of a frozen model, without labels.

    The file is then an option of the method: --method scorer --option fitted=FILE. The same command
    goes on where it was interrupted; the gates of dyvte start again. Exit code 3: done, but for
    images that could not be read.
    """
    from ...cli.parsing import parse_budgets, parse_methods
    from ...cli.terminal import print_json, progress, say
    from ...media import Picking
    from ...methods.inside.dyvte import DyVTE
    from ...presets import check_writable
    from ..fitting.checkpoint import steps_of
    from ..fitting.fit import fit as train
    from ..tuning.workload import load_workload
    from .asking import check_picking, load_subject
    from .run_folder import end, resumable

    check_writable(out)
    chosen: Any = parse_methods([method], option or [])[0]
    gates = isinstance(chosen, DyVTE)
    if gates:
        unheard = {"--keep": keep, "--tokens": tokens, "--relation": relation}
        options.refuse(unheard, "with --method dyvte")
    budgets: Any = parse_budgets(keep, tokens, ()) or None
    loaded = load_workload(workload, prompt or (), n, seed, "train", Picking(frames, fps))
    check_picking(loaded.items, frames, fps)
    subject = load_subject(loaded.items, model, device, dtype, [chosen], None, max_new_tokens)
    problems = list(loaded.problems)
    size = 1 if gates else batch
    total = -(-len(loaded.items) // size) + (0 if gates else steps)
    checkpoint = out.with_name(out.name + ".checkpoint")
    losses: list[float] = []
    with (
        nullcontext() if gates else resumable(checkpoint, steps_of(checkpoint), "steps"),
        progress("fitting", total) as bar,
    ):

        def on_progress(what: str, number: int, value: float) -> None:
            bar.step(1)
            if what == "step":
                losses.append(value)

        fitted = train(
            subject.model,
            _batches(subject, loaded.items, size, problems),
            chosen,
            keep=budgets,
            steps=steps,
            learning_rate=learning_rate,
            relation=relation,
            max_new_tokens=max_new_tokens,
            seed=seed,
            checkpoint=None if gates else checkpoint,
            on_progress=on_progress,
        )
    name = "gates" if gates else "fitted"
    getattr(fitted, name).save(out)
    if not gates:
        checkpoint.unlink(missing_ok=True)
    if as_json:
        summary = {"file": str(out), "method": fitted.name, "losses": losses}
        print_json(summary | {"problems": list(map(str, problems))})
    else:
        say(f"{out}: use it with --method {fitted.name} --option {name}={out}")
    end(problems)


def _batches(
    subject: Subject, items: list[Item], size: int, problems: list[Problem]
) -> Iterator[Any]:
    """Yield the inputs of some questions at a time; images that cannot be read are problems."""
    from ..asking.answering import inputs_for
    from ..asking.problems import readable

    questions = (question for _, question in readable(items, problems))
    while batch := list(itertools.islice(questions, size)):
        yield dict(inputs_for(subject.model, subject.processor, batch))
