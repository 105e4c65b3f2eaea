"""``lftr embeddings``: how far reduction moves embeddings, and which neighbours it keeps."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...cli import options
from ...values.errors import ArgumentError

if TYPE_CHECKING:
    from ...cli.terminal import Table


def embeddings(
    data: Annotated[
        list[str],
        typer.Option(
            "--data",
            "--suite",
            help="A folder of images (with prompts.txt or --prompt), a JSONL file with image or "
            "video and question, or a suite (scenes, clips).",
        ),
    ] = ["scenes"],  # noqa: B006  (typer reads it, nobody writes to it)
    prompt: Annotated[
        list[str] | None,
        typer.Option("--prompt", help="Question about every image of a folder."),
    ] = None,
    model: options.Model = None,
    method: options.Methods = ["lftr"],  # noqa: B006
    keep: options.Keeps = None,
    tokens: options.Counts = None,
    option: options.Options = None,
    k: Annotated[int, typer.Option("--k", min=1, help="Nearest neighbours to compare.")] = 10,
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
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="Folder of the run; by default a folder in lftr-embeddings/ for each "
            "configuration. An interrupted run is continued.",
        ),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Compare embeddings at equal tokens: cosine and Recall@k agreement with the full model.

    An embedding is the last layer's state of a prompt's last token; no right answers are needed.
    Exit code 3: done, but for prompts that could not be embedded, which are named.
    """
    from ...cli.terminal import print_json, progress, say
    from ...media import Picking
    from .. import suites
    from ..asking.journal import Journal
    from ..evaluation import try_settings
    from ..evaluation.index import BATCHES, embed_run, embedded, index_configuration, index_metrics
    from ..tuning.workload import load_workload
    from .asking import check_picking, load_subject, parse_settings
    from .run_folder import check_folder, end, folder_of, resumable

    if len(data) > 1:
        raise ArgumentError.of("--data", list(data), "one source: the prompts form one index")
    if data[0] not in suites.NAMES:
        options.refuse({"--split": split, "--seed": seed}, "without a suite in --data")
    check_folder("--out", out, "embeddings")
    methods, settings = parse_settings(method, option, keep, tokens, encoder, positions, weights)
    workload = load_workload(
        data[0], prompt or (), n, seed or 0, split or "test", Picking(frames, fps)
    )
    items = workload.items
    check_picking(items, frames, fps)
    if len(items) < 2:
        raise ArgumentError.of("data", workload.name, "two or more prompts: neighbours to find")
    # no answer is generated; the length is part of a subject's configuration
    subject = load_subject(items, model, device, dtype, methods, text_tower, max_new_tokens=16)
    refused = try_settings(subject, items, settings)
    config = index_configuration(subject, workload.name, items, settings, batch)
    journal = Journal.open(out or folder_of("embeddings", config), BATCHES, config)
    with closing(journal):
        for name, reason in refused.items():
            journal.leave_out(name, reason)
        with (
            resumable(journal.path, embedded(journal), "prompts"),
            progress("embedding", len(items)) as bar,
        ):
            unread = embed_run(journal, subject, items, settings, batch=batch, step=bar.step)
        metrics = index_metrics(journal, items, settings, k)
    left_out = journal.left_out
    problems = [*workload.problems, *unread]
    if as_json:
        plain = {"run": str(journal.path), "left_out": left_out, "config": config}
        print_json(plain | metrics | {"problems": list(map(str, problems))})
    else:
        _table(metrics, workload.name, left_out).print()
        say(f"run: {journal.path}")
    end(problems)


def _table(metrics: Mapping[str, Any], name: str, left_out: Mapping[str, str]) -> Table:
    from ...cli.terminal import Table, percent

    k = metrics["k"]
    notes = [
        "Embedding: the last layer's state of the prompt's last token. Cosine: to the full model's "
        f"own. Recall@{k}: share of the {k} nearest neighbours in the full index that the reduced "
        f"index finds too; by chance {metrics['chance']:.0%}, and at 100% no measure of anything. "
        "Brackets: 95 % intervals, bootstrap over images."
    ]
    notes += [f"{one} left out: {reason}" for one, reason in left_out.items()]
    table = Table(
        ["keep", "method", "visual tokens>", "cosine>", f"recall@{k} agreement>"],
        title=f"{metrics['prompts']} prompts of {name}",
        caption="\n".join(notes),
    )
    table.add_settings(
        metrics["settings"],
        lambda row: (
            f"{row['cosine']:.4f} ({row['cosine_low']:.4f}-{row['cosine_high']:.4f})",
            percent(row, "recall"),
        ),
    )
    return table
