"""``lftr eval``: accuracy of methods at several budgets, beside the full model and the controls."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Annotated

import typer

from ...cli import options


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
        str, typer.Option("--metric", help="exact, vqa, choice, yesno or anls.")
    ] = "exact",
    split: options.Split = None,
    frames: options.Frames = None,
    fps: options.Fps = None,
    n: options.Questions = None,
    seed: options.SuiteSeed = None,
    batch: options.Batch = 8,
    encoder: options.Encoders = None,
    weights: options.Weights = None,
    positions: options.Positions = None,
    text_tower: options.Tower = None,
    device: options.Device = None,
    dtype: options.Dtype = "auto",
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Length of an answer.")] = 16,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="Folder of the run; by default a folder in lftr-eval/ for each "
            "configuration. An interrupted run is continued.",
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
    from ...media import Picking
    from ...presets import check_writable
    from .. import evaluation, suites
    from .answers import answers as compare_answers
    from .asking import check_picking, load_subject, parse_settings
    from .run_folder import check_folder

    if not set(data) & set(suites.NAMES):
        options.refuse({"--split": split, "--seed": seed}, "without a suite in --data")
    split, seed = split or "test", seed or 0
    if report is not None:  # a missing extra shows before hours of answering
        importlib.import_module("..reporting", __package__)
        if report.parent != out:  # the run's own folder is made first
            check_writable(report, "report")
    check_folder("--out", out, "eval")
    evaluation.get_metric(metric)
    methods, settings = parse_settings(method, option, keep, tokens, encoder, positions, weights)
    picking = Picking(frames, fps)
    sources = [
        evaluation.load_data(one, split=split, n=n, seed=seed, metric=metric, picking=picking)
        for one in data
    ]
    items = [item for source in sources for item in source.items]
    check_picking(items, frames, fps)
    subject = load_subject(items, model, device, dtype, methods, text_tower, max_new_tokens)
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
