"""Relative accuracy against tokens: a panel for each method, the others faint behind it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, PercentFormatter

from .marks import bare, marks_of
from .setting_rows import SettingRow, by_series
from .theme import LIGHT


def draw_panels(rows: Sequence[SettingRow], width: float) -> Figure:
    """Draw each series' relative score over its tokens, with intervals.

    With a panel for each, any number of methods needs no legend. The line at the top is the full
    model.

    Parameters
    ----------
    width : float
        Inches.
    """
    groups = by_series(rows)
    marks = marks_of(rows)
    columns = min(len(groups), 4 if width > 5 else 2)
    lines = math.ceil(len(groups) / columns)
    figure = Figure((width, lines * 1.6 + 0.3), layout="constrained")
    panels = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).flatten()
    for panel, name in zip(panels, groups, strict=False):
        bare(panel)
        control = " (control)" if groups[name][0].control else ""
        panel.set_title(name + control, loc="left", fontsize=8.5, color=LIGHT["ink"])
        for other, group in groups.items():
            if other != name:
                _line(panel, group, LIGHT["faint"], 1)
        _line(panel, groups[name], marks[name].colour, 2)
        _intervals(panel, groups[name], *marks[name])
        panel.axhline(1, color=LIGHT["quiet"], linewidth=0.8, zorder=1)
    for panel in panels[len(groups) :]:
        panel.set_visible(False)
    for panel in panels[len(groups) - columns : len(groups)]:  # the lowest of each column
        panel.tick_params(labelbottom=True)
    _scales(panels[0], rows)
    figure.supxlabel("visual tokens", fontsize=8.5, color=LIGHT["quiet"])
    return figure


def _line(panel: Axes, group: Sequence[SettingRow], colour: str, layer: float) -> None:
    points = [(row.tokens, row.relative.value) for row in group if row.relative is not None]
    panel.plot(*zip(*points, strict=True), color=colour, linewidth=1.4, zorder=layer)


def _intervals(panel: Axes, group: Sequence[SettingRow], colour: str, marker: str) -> None:
    for row in group:
        if row.relative is None:
            continue
        panel.vlines(row.tokens, row.relative.low, row.relative.high, colour, linewidth=1, zorder=3)
        panel.plot(row.tokens, row.relative.value, marker, color=colour, markersize=4.5, zorder=4)


def _scales(panel: Axes, rows: Sequence[SettingRow]) -> None:
    counts = sorted({round(row.tokens) for row in rows if not row.full})
    panel.set_xscale("log", base=2)
    panel.set_xlim(counts[0] / 1.35, counts[-1] * 1.35)
    panel.xaxis.set_major_locator(FixedLocator(_spaced_counts(counts)))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    panel.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    panel.set_ylim(top=max(1.05, panel.get_ylim()[1]))


def _spaced_counts(counts: Sequence[int]) -> list[float]:
    """Leave out counts whose labels would overlap on a logarithmic axis."""
    least = max(1.4, (counts[-1] / counts[0]) ** 0.2)
    ticks: list[float] = []
    for count in counts:
        if not ticks or count >= ticks[-1] * least:
            ticks.append(count)
    return ticks
