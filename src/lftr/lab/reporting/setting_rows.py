"""The data of a report: a row for each setting, a series for each method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..asking.settings import is_control
from ..evaluation.runs import Run
from ..profiling.timing import Spread
from ..scoring.intervals import Interval


@dataclass(frozen=True)
class SettingRow:
    """One setting of a run.

    Attributes
    ----------
    label : str
        Name in the run.
    full : bool
        Whether this is the full model.
    series : str
        The label without its budget, common to all budgets of a method.
    control : bool
        Whether the method is a control.
    questions : int
        Number of questions answered under every setting.
    tokens : float
        Mean number of visual tokens of a question in the language model.
    score : float
        In [0, 1].
    relative : Interval or None
        Score over the full model's score; None if that is 0.
    agreement : Interval
        Share of answers that equal the full model's.
    categories : dict of str to (float or None)
        Relative score of each category.
    encoder_ms, method_ms : float
        Median times of the vision encoder and of the method.
    latency : Spread
        The time that a setting can reduce, including the method.
    merging : bool
        Whether a setting of the run merges tokens inside the vision encoder. If so, the latency
        includes the encoder; otherwise the encoder, equal under all settings, is left out.
    hallucination : dict of str to float
        Empty for other questions than yes or no.
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
        """The part of the time that the latency covers, in words."""
        return "with the encoder" if self.merging else "after the encoder"


def setting_rows(run: Run) -> list[SettingRow]:
    """Return the settings of a run in its order, the full model first.

    Empty before a question has been answered under every setting.
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


def without_full_model(rows: Sequence[SettingRow]) -> list[SettingRow]:
    """Return the rows other than the full model."""
    return [row for row in rows if not row.full]


def by_series(rows: Sequence[SettingRow]) -> dict[str, list[SettingRow]]:
    """Group the reduced rows by series, each from few tokens to many; controls come last."""
    groups: dict[str, list[SettingRow]] = {}
    for row in sorted(without_full_model(rows), key=lambda row: row.control):
        groups.setdefault(row.series, []).append(row)
    return {name: sorted(group, key=lambda row: row.tokens) for name, group in groups.items()}


def _row(one: Mapping[str, Any], full: bool, latency: Spread, merging: bool) -> SettingRow:
    return SettingRow(
        label=one["label"],
        full=full,
        series=one["label"].removesuffix(f" {one['keep']}"),
        control=not full and is_control(one["method"]),
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
