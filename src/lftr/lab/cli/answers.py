"""The work of ``lftr eval``: answers under every setting, and the table of scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...cli.terminal import Table, percent, print_json, say
from .run_folder import end, folder_of, resumable
from .scores import Scores

if TYPE_CHECKING:
    from ..evaluation import Data, Setting, Subject

_ENOUGH = (
    0.9  # lower end of the interval of right answers alone; with fewer than 36 images it is below
)


def answers(
    subject: Subject,
    sources: Sequence[Data],
    settings: Sequence[Setting],
    *,
    metric: str,
    seed: int,
    batch: int,
    out: Path | None,
    report: Path | None,
    as_json: bool,
) -> None:
    """Ask every question under every setting, and print the table."""
    from .. import evaluation

    items = [item for source in sources for item in source.items]
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
        unread += evaluation.write_thumbnails(run, items, subject.processor)
    if report is not None:
        from ..reporting import write_report

        write_report(run.path, report)
    problems = [*(p for source in sources for p in source.problems), *unread]
    if as_json:
        plain = {"run": str(run.path), "config": run.config, "problems": list(map(str, problems))}
        print_json(plain | metrics)
    else:
        _table(metrics, run.config).print()
        say(f"run: {run.path}")
        if report is not None:
            say(f"report: {report}")
    end(problems)


def _table(metrics: Mapping[str, Any], config: Mapping[str, Any]) -> Table:
    names = ", ".join(one["name"] for one in config["data"])
    notes = [
        f"Score: {config['metric']}. Of full: its share of the full model's score, by task, then "
        "the mean. Brackets: 95 % intervals, paired bootstrap over questions. ms: median time of a "
        "question, encoder included, as an equal share of its batch's time."
    ]
    if metrics["can_show"] < _ENOUGH:
        notes.append(
            "Few images: even if every answer were right, a score's interval would begin at "
            f"{metrics['can_show']:.0%}. 'Of full' is the ratio of two uncertain scores, so its "
            "interval can end far above 100%."
        )
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
