"""``lftr eval``: accuracy of methods at several budgets, beside the full model and the controls."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..budget import parse_keep
from ..errors import ArgumentError
from ..media import Picking
from ..merges import parse_merge
from ..presets import check_writable
from . import options
from .embeddings import embeddings as compare_embeddings
from .folders import check_folder, folder_of
from .left_out import end, resumable
from .loading import load_model
from .parsing import parse_device, parse_dtype, parse_methods
from .scores import Scores
from .sights import ask_of_clips
from .terminal import Table, percent, print_json, stdout

if TYPE_CHECKING:
    from ..evaluation.tune_workload import Workload


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
    method: Annotated[
        list[str],
        typer.Option("--method", help="A name that `lftr methods` lists; as many as wanted."),
    ] = ["lftr"],  # noqa: B006
    keep: Annotated[
        list[str],
        typer.Option("--keep", help="A ratio or a count for each image; as many as wanted."),
    ] = ["1/4", "1/16"],  # noqa: B006
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
        str, typer.Option("--split", help="Of a suite: train, validation or test.")
    ] = "test",
    frames: options.Frames = None,
    fps: options.Fps = None,
    n: Annotated[
        int | None,
        typer.Option(
            "--n", min=1, help="Most questions of each data set; by default 240 of a suite."
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of a suite's scenes.")] = 0,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Questions at a time.")] = 8,
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
    from .. import evaluation

    if report is not None:  # a missing extra shows before hours of answering
        importlib.import_module("..reporting", __package__)
        if report.parent != out:  # the run's own folder is made first
            check_writable(report, "report")
    check_folder("--out", out, "eval")
    answers = {"--metric": metric, "--max-new-tokens": max_new_tokens, "--report": report}
    _refuse(answers if embeddings else {"--prompt": prompt, "--k": k}, embeddings)
    metric = metric or "exact"
    methods = parse_methods(method, option or [])
    evaluation.get_metric(metric)
    plain = evaluation.settings_grid(methods, map(parse_keep, keep), positions=positions)
    settings = evaluation.with_merges(plain, map(parse_merge, encoder or []), methods)
    picking = Picking(frames, fps)
    workload = _workload(data, prompt or (), n, seed, split, picking) if embeddings else None
    sources = [
        evaluation.load_data(one, split=split, n=n, seed=seed, metric=metric, picking=picking)
        for one in (data if workload is None else ())
    ]
    items = [item for source in sources for item in source.items]
    asked = items if workload is None else workload.items
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
    left_out = evaluation.try_settings(subject, items, settings)
    config = evaluation.configuration(subject, sources, settings, metric=metric, seed=seed)
    with evaluation.Run.open(out or folder_of("eval", config), config) as run:
        for name, reason in left_out.items():
            run.leave_out(name, reason)
        scores = Scores(settings, len(items), run.predictions)
        with resumable(run.path, len(run.done())), scores:
            unread = evaluation.evaluate(
                run, subject, items, settings, metric=metric, batch=batch, step=scores.add
            )
        metrics = run.write_metrics()
        unread += evaluation.write_thumbnails(run, items, loaded.processor)
    if report is not None:
        from ..reporting import write_report

        write_report(run.path, report)
    problems = [*(p for source in sources for p in source.problems), *unread]
    if as_json:
        told = {"run": str(run.path), "config": run.config, "problems": list(map(str, problems))}
        print_json(told | metrics)
    else:
        _table(metrics, run.config).print()
        _say_where(run.path, report)
    end(problems)


def _workload(
    data: Sequence[str],
    prompts: Sequence[str],
    n: int | None,
    seed: int,
    split: str,
    picking: Picking,
) -> Workload:
    """Return what is embedded: one set, without answers."""
    from ..evaluation.tune_workload import load_workload

    if len(data) > 1:
        raise ArgumentError.of("--data", list(data), "one, with --embeddings: one index")
    return load_workload(data[0], prompts, n, seed, split, picking)


def _refuse(options: Mapping[str, Any], embeddings: bool) -> None:
    """Refuse what was given that would go unheard, as answers and embeddings have options apart."""
    name = next((name for name, value in options.items() if value is not None), None)
    if name is not None:
        beside = "beside" if embeddings else "without"
        raise ArgumentError.of(name, str(options[name]), f"no such option {beside} --embeddings")


def _table(metrics: Mapping[str, Any], config: Mapping[str, Any]) -> Table:
    names = ", ".join(one["name"] for one in config["data"])
    notes = [
        f"Score: {config['metric']}. Of full: its share of the full model's score, task by task, "
        "then the mean. Brackets: 95 % intervals, paired bootstrap over questions. ms: a question "
        "with the encoder, an equal share of its batch's time, median."
    ]
    notes += [f"{name} left out: {reason}" for name, reason in config["left_out"].items()]
    table = Table(
        ["keep", "method", "visual tokens>", "score>", "of full>", "agrees with full>", "ms>"],
        title=f"{metrics['questions']} questions of {names}",
        caption="\n".join(notes),
    )
    table.add_settings(
        metrics["settings"],
        lambda row: (
            percent(row, "score"),
            percent(row, "relative"),
            percent(row, "agreement"),
            f"{row['ms']['total']['median']:.1f}",
        ),
    )
    return table


def _say_where(run: Path, report: Path | None) -> None:
    console = stdout()
    console.print(f"run: {run}", markup=False, highlight=False, soft_wrap=True)
    if report is not None:
        console.print(f"report: {report}", markup=False, highlight=False, soft_wrap=True)
