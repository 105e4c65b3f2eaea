"""Exit codes of commands that left questions out or were interrupted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ...cli.terminal import remark

if TYPE_CHECKING:
    from ..asking.problems import Problem

LEFT_OUT = 3  # exit code of a run that is complete except for questions that could not be asked
_INTERRUPTED = 130  # as shells do: 128 plus the number of SIGINT


def end(problems: Sequence[Problem]) -> None:
    """Print the problems, and exit with `LEFT_OUT` if there are any."""
    remark(*(f"left out: {problem}" for problem in problems))
    if len(problems) > 1:
        remark(f"{len(problems)} lines or images left out")
    if problems:
        raise typer.Exit(LEFT_OUT)


@contextmanager
def resumable(folder: Path, count: int, what: str = "answers") -> Iterator[None]:
    """Print how many answers a run's folder has, and on an interrupt how to continue."""
    if count:
        remark(f"going on: {count} {what} in {folder}")
    try:
        yield
    except KeyboardInterrupt:
        remark(f"interrupted; the same command goes on in {folder}")
        raise typer.Exit(_INTERRUPTED) from None
