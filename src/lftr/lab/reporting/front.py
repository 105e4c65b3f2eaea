"""Accuracy against latency, with the Pareto front."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator, PercentFormatter
from matplotlib.transforms import Bbox

from .marks import bare, marks_of
from .setting_rows import SettingRow, by_series
from .theme import LIGHT

_LABEL = 7.5  # points


def front_of(rows: Sequence[SettingRow]) -> list[SettingRow]:
    """Return the Pareto front of time and score, fastest first."""
    front: list[SettingRow] = []
    for row in sorted(rows, key=lambda row: (row.latency.median, -row.score)):
        if not front or row.score > front[-1].score:
            front.append(row)
    return front


def draw_front(rows: Sequence[SettingRow], width: float) -> Figure:
    """Draw the score of every setting over its time.

    Parameters
    ----------
    width : float
        Inches.
    """
    figure = Figure((width, width * 0.45 + 1.6), layout="constrained")
    axes = figure.subplots()
    bare(axes)
    axes.set_title("Score", loc="left", fontsize=8.5, color=LIGHT["quiet"])
    axes.grid(axis="x", color=LIGHT["rule"], linewidth=0.6)
    axes.set_xlabel(f"ms for each question, {rows[0].span}", fontsize=8.5, color=LIGHT["quiet"])
    _scales(axes, rows, room=0.25 if width > 5 else 0.6)
    front = front_of(rows)
    axes.step(
        [row.latency.median for row in front],
        [row.score for row in front],
        where="post",
        color=LIGHT["ink"],
        linewidth=1.1,
        zorder=2,
    )
    _points(axes, rows)
    figure.legend(
        loc="outside lower left",
        ncols=max(1, int(width / 1.15)),
        frameon=False,
        fontsize=8,
        labelcolor=LIGHT["ink"],
        handletextpad=0.2,
        columnspacing=1.0,
    )
    figure.draw_without_rendering()  # names are placed by what else has its place
    _name(axes, front)
    return figure


def _scales(axes: Axes, rows: Sequence[SettingRow], room: float) -> None:
    """Set the scales; ``room`` is the left margin for names, as a share of the marks' range."""
    times = [row.latency.median for row in rows]
    scores = [row.score for row in rows]
    margin = 0.06 * (max(scores) - min(scores)) or 0.02
    span = max(max(times) / min(times), 1.5)
    axes.set_xscale("log")
    axes.set_xlim(min(times) / span**room, max(times) * span**0.06)
    axes.set_ylim(min(scores) - margin, max(scores) + 2 * margin)
    steps = (1, 2, 5) if span > 8 else (1, 1.5, 2, 3, 4, 5, 6, 8)
    axes.xaxis.set_major_locator(LogLocator(subs=steps))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))


def _points(axes: Axes, rows: Sequence[SettingRow]) -> None:
    series = by_series(rows)
    marks = marks_of(rows)
    for number, row in enumerate(row for row in rows if row.full):
        _series(axes, [row], LIGHT["ink"], "*", "full" if not number else "")
    for name, group in series.items():
        _series(axes, group, *marks[name], name)


def _series(axes: Axes, group: Sequence[SettingRow], colour: str, marker: str, name: str) -> None:
    for row in group:
        axes.hlines(row.score, row.latency.low, row.latency.high, colour, linewidth=0.8, alpha=0.5)
    axes.plot(
        [row.latency.median for row in group],
        [row.score for row in group],
        linestyle="none",
        marker=marker,
        markersize=9 if marker == "*" else 5.5,
        color=colour,
        markeredgewidth=1.3 if group[0].control else 0,
        label=name,
        zorder=3,
    )


def _name(axes: Axes, front: Sequence[SettingRow]) -> None:
    """Write the names of the front above and left of its marks, where only other names can be."""
    placed: list[Bbox] = []
    for row in front:
        name = axes.annotate(
            row.label,
            (row.latency.median, row.score),
            (-3, 4),
            textcoords="offset points",
            ha="right",
            va="bottom",
            fontsize=_LABEL,
            color=LIGHT["ink"],
            zorder=4,
        )
        box = name.get_window_extent()
        while any(box.overlaps(other) for other in placed):
            left, up = name.get_position()
            name.set_position((left, up + 1))
            box = name.get_window_extent()
        placed.append(box.padded(2))
