"""The statements at the top of a report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..scoring.intervals import Interval
from .setting_rows import SettingRow, without_full_model

KEPT = 0.95  # of the full score, by the interval's lower end: what the summary calls kept


@dataclass(frozen=True)
class Tile:
    """One statement: its subject, its figure, and the meaning."""

    subject: str
    figure: str
    meaning: str


def tiles_of(rows: Sequence[SettingRow], tokens: float) -> list[Tile]:
    """Return the statements at the top of a report.

    Parameters
    ----------
    tokens : float
        Mean number of visual tokens of a question without reduction.
    """
    full = next((row for row in rows if row.full), None)
    others = [row for row in without_full_model(rows) if row.relative is not None]
    tiles = []
    if full is not None:
        tiles.append(
            Tile("The full model", f"{full.score:.1%}", f"score with {tokens:.0f} visual tokens")
        )
    if others and full is not None:
        tiles.append(_fewest(others, tokens, full))
        tiles.append(_smallest(others))
    return tiles


def interval(share: Interval) -> str:
    """Write a share in per cent, with its interval."""
    return f"{share.value:.1%} [{100 * share.low:.1f}, {100 * share.high:.1f}]"


def _relative(row: SettingRow) -> Interval:
    assert row.relative is not None, "the caller has looked"
    return row.relative


def _fewest(rows: Sequence[SettingRow], tokens: float, full: SettingRow) -> Tile:
    subject = f"Fewest tokens that keep {KEPT:.0%}"
    enough = [row for row in rows if _relative(row).low >= KEPT]
    if not enough:
        return Tile(subject, "none", "no setting's interval lies wholly above it")
    row = min(enough, key=lambda row: (row.tokens, -_relative(row).value))
    times = full.latency.median / row.latency.median
    return Tile(
        subject,
        f"{row.tokens:.0f}",
        f"{row.label}: {tokens / row.tokens:.1f} times fewer, {interval(_relative(row))} of the "
        f"full score, {times:.1f} times the speed {row.span}",
    )


def _smallest(rows: Sequence[SettingRow]) -> Tile:
    """Compare the best method and control at the smallest budget."""
    least = min(row.tokens for row in rows)
    there = sorted(
        (row for row in rows if row.tokens <= least * 1.02), key=lambda row: -_relative(row).value
    )
    best = next((row for row in there if not row.control), there[0])
    control = next((row for row in there if row.control and row is not best), None)
    beside = "no control was run beside it"
    if control is not None:
        beside = f"best control: {control.label}, {interval(_relative(control))}"
    return Tile(
        f"Best with {best.tokens:.0f} tokens",
        f"{_relative(best).value:.1%}",
        f"of the full score: {best.label}, {interval(_relative(best))}; {beside}",
    )
