"""Figures as SVG in the colours of the page, and as files."""

from __future__ import annotations

import io
import re
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from .theme import LIGHT


def inline_svg(figure: Figure, name: str) -> str:
    """Return a figure as an ``<svg>`` element.

    Text stays text, colours become CSS variables (``var(--ink)``), and ids contain the figure's
    name, so that one page can hold several.

    Parameters
    ----------
    name : str
        Unique on the page.
    """
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    text = re.sub(r' (width|height)="[\d.]+pt"', "", text, count=2)
    for role, colour in LIGHT.items():
        text = text.replace(colour, f"var(--{role})")
    return text.replace("<svg ", '<svg aria-hidden="true" ', 1)


def save_figure(figure: Figure, folder: Path, name: str) -> None:
    """Write a figure as SVG, with its letters as outlines, and as PNG of 200 dots an inch."""
    with matplotlib.rc_context({"svg.fonttype": "path", "svg.hashsalt": name}):
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
    figure.savefig(folder / f"{name}.png", dpi=200)
