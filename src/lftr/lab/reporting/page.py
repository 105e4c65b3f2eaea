"""One page of a run."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from ...drawing import ACCENT
from ...media import read_image
from ...values.errors import ArgumentError
from ..evaluation.runs import Run
from .front import draw_front, front_of
from .gallery import cards_of
from .heatmap import draw_heatmap
from .panels import draw_panels
from .setting_rows import SettingRow, setting_rows, without_full_model
from .summary import interval, tiles_of
from .svg import inline_svg, save_figure
from .theme import DARK, LIGHT, heat, heat_step

_WIDE, _NARROW = 7.2, 3.6  # inches; the page shows the one that suits the screen

Draw = Callable[[Sequence[SettingRow], float], Figure]


def write_report(run: str | Path, out: str | Path, plots: str | Path | None = None) -> Path:
    """Write a run as one self-contained HTML page.

    Parameters
    ----------
    run : str or Path
        A folder that ``lftr eval --out`` wrote, finished or not.
    out : str or Path
        The page.
    plots : str or Path, optional
        Folder for the figures, as SVG and PNG.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    ArgumentError
        If ``run`` is not a run, holds no answers, or a file cannot be written.
    """
    read = Run.read(run)
    rows = setting_rows(read)
    if not rows:
        allowed = "a run in which some question has been answered under every setting"
        raise ArgumentError.of("run", str(run), allowed)
    page = _render(read, rows)
    try:
        Path(out).write_text(page, encoding="utf-8")
    except OSError as error:
        raise ArgumentError.of("out", str(out), f"a file to write ({error})") from None
    if plots is not None:
        _save_plots(rows, Path(plots))
    return Path(out)


def _figures(rows: Sequence[SettingRow]) -> dict[str, Draw]:
    """Return the names of the figures for these rows."""
    figures: dict[str, Draw] = {"latency": draw_front}
    if any(row.relative is not None for row in without_full_model(rows)):
        figures["tokens"] = draw_panels
    return figures


def _save_plots(rows: Sequence[SettingRow], folder: Path) -> None:
    figures = _figures(rows)
    if rows[0].categories and without_full_model(rows):
        figures["categories"] = draw_heatmap
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, draw in figures.items():
            save_figure(draw(rows, _WIDE), folder, name)
    except OSError as error:
        raise ArgumentError.of("plots", str(folder), f"a folder to write to ({error})") from None


def _render(run: Run, rows: Sequence[SettingRow]) -> str:
    cards = cards_of(run)
    images = {
        id: {"number": number, **_picture(run.image(id))}
        for number, id in enumerate(dict.fromkeys(card.full["id"] for card in cards))
    }
    figures = {
        name: [
            Markup(inline_svg(draw(rows, width), f"{name} {width}")) for width in (_WIDE, _NARROW)
        ]
        for name, draw in _figures(rows).items()
    }
    environment = Environment(
        loader=PackageLoader("lftr.lab.reporting", "template"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"interval": interval, "step": heat_step}
    return environment.get_template("report.html").render(
        config=run.config,
        plain_config=json.dumps(run.config, indent=1, ensure_ascii=False),
        questions=rows[0].questions,
        wanted=sum(data["questions"] for data in run.config["data"]),
        rows=rows,
        tiles=tiles_of(rows, fmean(line["tokens"] for line in run.predictions)),
        front=front_of(rows),
        figures=figures,
        cards=cards,
        chosen=_first_setting(rows),
        images=images,
        accent=ACCENT,
        light=LIGHT,
        dark=DARK,
        heats={"light": heat("light"), "dark": heat("dark")},
    )


def _first_setting(rows: Sequence[SettingRow]) -> str:
    """Return the setting whose answers are shown first: the smallest budget of a method."""
    return min(without_full_model(rows) or rows, key=lambda row: (row.control, row.tokens)).label


def _picture(path: Path) -> dict[str, Any]:
    """Return an image as a data URI, with its size."""
    image = read_image(path)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    data = base64.b64encode(buffer.getvalue()).decode()
    return {"uri": f"data:image/jpeg;base64,{data}", "width": image.width, "height": image.height}
