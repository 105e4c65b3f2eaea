"""What a report shows of a run: a row for each setting, a series for each method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..asking.settings import CONTROLS
from ..evaluation.runs import Run
from ..profiling.timing import Spread
from ..scoring.intervals import Interval


@dataclass(frozen=True)
class Row:
    """One setting of a run.

    Attributes
    ----------
    label : str
        What the run calls it.
    full : bool
        Whether this is the model as it is.
    series : str
        The label without its budget: the same for one method at several.
    control : bool
        Whether the method is one that every other must beat.
    questions : int
        How many were answered under every setting.
    tokens : float
        Visual tokens of a question that reached the language model, on average.
    score : float
        In [0, 1].
    relative : Interval or None
        Score over the full model's score; None where the full model scores nothing.
    agreement : Interval
        Share of answers that equal the full model's.
    categories : dict of str to (float or None)
        Relative score of each category.
    encoder_ms, method_ms : float
        Medians of what the vision encoder takes, and the method.
    latency : Spread
        What a setting can save, the method included.
    merging : bool
        Whether some setting of the run merges tokens inside the vision encoder. Then the latency is
        of all; else of everything after the encoder, which takes the same time under all settings.
    hallucination : dict of str to float
        Empty where the questions are not of that kind.
    """

    label: str
    full: bool
    series: str
    control: bool
    questions: int
    tokens: float
    score: float
    relative: Interval | None
    agreement: Interval
    categories: Mapping[str, float | None]
    encoder_ms: float
    method_ms: float
    latency: Spread
    merging: bool
    hallucination: Mapping[str, float]

    @property
    def span(self) -> str:
        """What the latency is of, in words."""
        return "with the encoder" if self.merging else "after the encoder"


def rows_of(run: Run) -> list[Row]:
    """Return the settings of a run in its own order, the full model first.

    There are none before a question has been answered under every setting.
    """
    merging = any(one.get("encoder") for one in run.config["settings"])
    times: dict[str, list[float]] = {}
    for line in run.predictions:
        same = 0.0 if merging else line["ms"]["encode"]
        times.setdefault(line["setting"], []).append(line["ms"]["total"] - same)
    return [
        _row(one, not number, Spread.of(times[one["label"]]), merging)
        for number, one in enumerate(run.metrics["settings"])
    ]


def reduced(rows: Sequence[Row]) -> list[Row]:
    """Return the rows that reduce."""
    return [row for row in rows if not row.full]


def by_series(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Group what reduces by its series, each from few tokens to many; controls come last."""
    groups: dict[str, list[Row]] = {}
    for row in sorted(reduced(rows), key=lambda row: row.control):
        groups.setdefault(row.series, []).append(row)
    return {name: sorted(group, key=lambda row: row.tokens) for name, group in groups.items()}


def _row(one: Mapping[str, Any], full: bool, latency: Spread, merging: bool) -> Row:
    return Row(
        label=one["label"],
        full=full,
        series=one["label"].removesuffix(f" {one['keep']}"),
        control=not full and one["method"] in CONTROLS,
        questions=one["questions"],
        tokens=one["tokens"],
        score=one["score"],
        relative=None if one["relative"] is None else _interval(one, "relative"),
        agreement=_interval(one, "agreement"),
        categories={name: part["relative"] for name, part in one["categories"].items()},
        encoder_ms=one["ms"]["encode"]["median"],
        method_ms=one["ms"]["method"]["median"],
        latency=latency,
        merging=merging,
        hallucination=one["hallucination"] or {},
    )


def _interval(one: Mapping[str, Any], name: str) -> Interval:
    return Interval(one[name], one[f"{name}_low"], one[f"{name}_high"])
