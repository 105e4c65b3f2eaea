"""Relative accuracy of every setting in every category, as a picture for files."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from .setting_rows import SettingRow, without_full_model
from .theme import LIGHT, heat, heat_step


def draw_heatmap(rows: Sequence[SettingRow], width: float) -> Figure:
    """Draw a cell for each setting and category; darker cells lose more.

    Parameters
    ----------
    width : float
        Inches.
    """
    settings = without_full_model(rows)
    names = list(settings[0].categories)
    colours = heat("light")
    figure = Figure((width, 0.24 * len(settings) + 0.7), layout="constrained")
    axes = figure.subplots()
    for top, row in enumerate(settings):
        for left, name in enumerate(names):
            relative = row.categories[name]
            ground, ink = (
                (LIGHT["raised"], LIGHT["quiet"])
                if relative is None
                else colours[heat_step(relative)]
            )
            axes.add_patch(Rectangle((left, top), 1, 1, facecolor=ground))
            text = "-" if relative is None else f"{relative:.0%}"
            axes.text(left + 0.5, top + 0.5, text, ha="center", va="center", fontsize=7, color=ink)
    axes.set_xlim(0, len(names))
    axes.set_ylim(len(settings), 0)
    axes.set_xticks([left + 0.5 for left in range(len(names))], names)
    axes.set_yticks([top + 0.5 for top in range(len(settings))], [row.label for row in settings])
    axes.xaxis.tick_top()
    axes.tick_params(colors=LIGHT["ink"], labelsize=7.5, length=0)
    axes.spines[:].set_visible(False)
    return figure
