"""``lftr eval``: accuracy of methods at several budgets, beside the full model and the controls."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ...cli import options
from ...values.errors import ArgumentError

if TYPE_CHECKING:
    from ...media import Picking
    from ..tuning.workload import Workload


def evaluate(
    model: options.Model = None,
    data: Annotated[
        list[str],
        typer.Option(
            "--data",
            "--suite",
            help="A suite (scenes, clips), or a JSONL file with image or video, question, answers; "
            "may be given several times.",
        ),
    ] = ["scenes"],  # noqa: B006  (typer reads it, nobody writes to it)
    method: options.Methods = ["lftr"],  # noqa: B006
    keep: options.Keeps = None,
    tokens: options.Counts = None,
    option: options.Options = None,
    metric: Annotated[
        str | None,
        typer.Option("--metric", help="exact (the default), vqa, choice, yesno or anls."),
    ] = None,
    embeddings: Annotated[
        bool,
        typer.Option(
            "--embeddings",
            help="Compare embeddings, not answers: cosine and Recall@k agreement with the full "
            "model. --data is one folder of images (with prompts.txt or --prompt), JSONL file or "
            "suite; no answers are needed.",
        ),
    ] = False,
    k: Annotated[
        int | None,
        typer.Option("--k", min=1, help="Of --embeddings: neighbours; by default 10."),
    ] = None,
    prompt: Annotated[
        list[str] | None,
        typer.Option("--prompt", help="Of --embeddings: what every image of a folder is asked."),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option("--split", help="Of a suite: train, validation or, by default, test."),
    ] = None,
    frames: options.Frames = None,
    fps: options.Fps = None,
    n: Annotated[
        int | None,
        typer.Option(
            "--n", min=1, help="Most questions of each data set; by default 240 of a suite."
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", min=0, help="Of a suite's scenes; by default 0.")
    ] = None,
    batch: options.Batch = 8,
    encoder: options.Encoders = None,
    positions: options.Positions = None,
    text_tower: options.Tower = None,
    device: options.Device = None,
    dtype: options.Dtype = "auto",
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, help="Length of an answer; by default 16.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="Folder of the run; by default one of its own in lftr-eval/ for every "
            "configuration. A run that was interrupted goes on.",
        ),
    ] = None,
    report: Annotated[
        Path | None, typer.Option("--report", help="Write a page of charts and examples here.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Compare methods at equal tokens: score, share of the full model's, agreement with it.

    Every table holds the full model and the controls random, uniform, pool and downsample. Exit
    code 3: done, but for questions that could not be asked, which are named.
    """
    from ...cli.loading import load_model
    from ...cli.parsing import parse_budgets, parse_device, parse_dtype, parse_methods
    from ...media import Picking
    from ...methods.encoder.spelling import parse_merge
    from ...presets import check_writable
    from .. import evaluation, suites
    from .answers import answers as compare_answers
    from .asked_media import ask_of_clips, check_picking
    from .embeddings import embeddings as compare_embeddings
    from .folders import check_folder

    if embeddings:
        answers = {"--metric": metric, "--max-new-tokens": max_new_tokens, "--report": report}
        options.refuse(answers, "beside --embeddings")
    else:
        options.refuse({"--prompt": prompt, "--k": k}, "without --embeddings")
    if not set(data) & set(suites.NAMES):
        options.refuse({"--split": split, "--seed": seed}, "without a suite in --data")
    split, seed = split or "test", seed or 0
    if report is not None:  # a missing extra shows before hours of answering
        importlib.import_module("..reporting", __package__)
        if report.parent != out:  # the run's own folder is made first
            check_writable(report, "report")
    check_folder("--out", out, "eval")
    metric = metric or "exact"
    methods = parse_methods(method, option or [])
    evaluation.get_metric(metric)
    plain = evaluation.settings_grid(methods, parse_budgets(keep, tokens), positions=positions)
    settings = evaluation.with_merges(plain, map(parse_merge, encoder or []), methods)
    picking = Picking(frames, fps)
    workload = _workload(data, prompt or (), n, seed, split, picking) if embeddings else None
    sources = [
        evaluation.load_data(one, split=split, n=n, seed=seed, metric=metric, picking=picking)
        for one in (data if workload is None else ())
    ]
    items = [item for source in sources for item in source.items]
    asked = items if workload is None else workload.items
    check_picking(asked, frames, fps)
    loaded = load_model(
        model,
        parse_device(device),
        parse_dtype(dtype),
        text_tower,
        options.needs_tower(methods),
        ask_of_clips(asked, model),
    )
    subject = evaluation.Subject(
        loaded.name, loaded.model, loaded.processor, loaded.text_tower, max_new_tokens or 16
    )
    if workload is not None:
        compare_embeddings(
            subject, workload, settings, k=k or 10, batch=batch, out=out, as_json=as_json
        )
        return
    compare_answers(
        subject,
        sources,
        settings,
        metric=metric,
        seed=seed,
        batch=batch,
        out=out,
        report=report,
        as_json=as_json,
    )


def _workload(
    data: Sequence[str],
    prompts: Sequence[str],
    n: int | None,
    seed: int,
    split: str,
    picking: Picking,
) -> Workload:
    """Return what is embedded: one set, without answers."""
    from ..tuning.workload import load_workload

    if len(data) > 1:
        raise ArgumentError.of("--data", list(data), "one, with --embeddings: one index")
    return load_workload(data[0], prompts, n, seed, split, picking)
