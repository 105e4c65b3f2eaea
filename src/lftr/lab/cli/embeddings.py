"""``lftr eval --embeddings``: how far reduction moves an index, and what it still finds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...cli.terminal import Table, percent, print_json, progress, say
from ...values.errors import ArgumentError
from .exit_status import end, resumable
from .folders import folder_of

if TYPE_CHECKING:
    from ..evaluation import Setting, Subject
    from ..tuning.workload import Workload


def embeddings(
    subject: Subject,
    workload: Workload,
    settings: Sequence[Setting],
    *,
    k: int,
    batch: int,
    out: Path | None,
    as_json: bool,
) -> None:
    """Embed a workload under every setting, and print the table."""
    from ..asking.journal import Journal
    from ..evaluation import try_settings
    from ..evaluation.index import (
        BATCHES,
        embed_run,
        embedded,
        index_configuration,
        index_metrics,
    )

    items = workload.items
    if len(items) < 2:
        raise ArgumentError.of("data", workload.name, "two or more prompts: neighbours to find")
    refused = try_settings(subject, items, settings)
    config = index_configuration(subject, workload.name, items, settings, batch)
    journal = Journal.open(out or folder_of("eval", config), BATCHES, config)
    with closing(journal):
        for name, reason in refused.items():
            journal.leave_out(name, reason)
        with (
            resumable(journal.path, embedded(journal), "prompts"),
            progress("embedding", len(items)) as bar,
        ):
            unread = embed_run(
                journal,
                subject,
                items,
                settings,
                batch=batch,
                step=bar.step,
            )
        metrics = index_metrics(journal, items, settings, k)
    left_out = journal.left_out
    problems = [*workload.problems, *unread]
    if as_json:
        told = {"run": str(journal.path), "left_out": left_out, "config": config}
        print_json(told | metrics | {"problems": list(map(str, problems))})
    else:
        _table(metrics, workload.name, left_out).print()
        say(f"run: {journal.path}")
    end(problems)


def _table(metrics: Mapping[str, Any], name: str, left_out: Mapping[str, str]) -> Table:
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
