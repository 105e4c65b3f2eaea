"""How a verb ends that could not ask everything, or was interrupted: it says what is done."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ...cli.terminal import remark

if TYPE_CHECKING:
    from ..asking.problems import Problem

LEFT_OUT = 3  # exit code of a run that is whole but for questions that could not be asked
_INTERRUPTED = 130  # as shells say it: 128 and the number of SIGINT


def end(problems: Sequence[Problem]) -> None:
    """Name what could not be asked, and say so by the exit code."""
    remark(*(f"left out: {problem}" for problem in problems))
    if len(problems) > 1:
        remark(f"{len(problems)} lines or images left out")
    if problems:
        raise typer.Exit(LEFT_OUT)


@contextmanager
def resumable(folder: Path, found: int, what: str = "answers") -> Iterator[None]:
    """Say what was ``found`` in a run's folder, and how to go on where the user interrupts."""
    if found:
        remark(f"going on: {found} {what} in {folder}")
    try:
        yield
    except KeyboardInterrupt:
        remark(f"interrupted; the same command goes on in {folder}")
        raise typer.Exit(_INTERRUPTED) from None
