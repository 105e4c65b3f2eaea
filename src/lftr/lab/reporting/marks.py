"""Colours and markers of the series, and the style of the axes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from typing import NamedTuple

from matplotlib.axes import Axes

from .setting_rows import SettingRow, by_series
from .theme import HUES, LIGHT

_FILLED = "osD^vPph"
_OPEN = "x+12"


class Mark(NamedTuple):
    """Colour and marker of a series."""

    colour: str
    marker: str


def marks_of(rows: Sequence[SettingRow]) -> dict[str, Mark]:
    """Return a mark for every series: a hue and a filled marker; controls are grey and thin.

    Neighbours differ in colour and marker; any two of forty series differ in one of them.
    """
    filled = (
        Mark(LIGHT[hue], _FILLED[(lap + step) % len(_FILLED)])
        for lap in cycle(range(len(_FILLED)))
        for step, hue in enumerate(HUES)
    )
    thin = cycle(Mark(LIGHT["control"], marker) for marker in _OPEN)
    return {
        name: next(thin if group[0].control else filled) for name, group in by_series(rows).items()
    }


def bare(axes: Axes) -> None:
    """Remove all but two axes and faint horizontal rules."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["bottom", "left"]].set_color(LIGHT["rule"])
    axes.tick_params(colors=LIGHT["quiet"], labelsize=8, length=0)
    axes.grid(axis="y", color=LIGHT["rule"], linewidth=0.6)
    axes.set_axisbelow(True)
