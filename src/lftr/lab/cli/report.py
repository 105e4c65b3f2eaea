"""``lftr report``: a run of ``lftr eval`` as one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    run: Annotated[Path, typer.Argument(help="A folder that `lftr eval --out` wrote.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The page.")] = Path("lftr-report.html"),
    plots: Annotated[
        Path | None, typer.Option("--plots", help="Folder for the figures as SVG and PNG.")
    ] = None,
) -> None:
    """Write a run as one HTML page: figures, tables, and answers beside their images."""
    from ...cli.terminal import say, show_spinner
    from ..reporting import write_report

    with show_spinner("drawing"):
        page = write_report(run, out, plots)
    say(f"report: {page}")
    if plots is not None:
        say(f"plots: {plots}")
