"""How a verb ends that could not ask everything, or was interrupted: it says what is done."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from .terminal import stderr

if TYPE_CHECKING:
    from ..evaluation.jsonl import Problem

LEFT_OUT = 3  # exit code of a run that is whole but for questions that could not be asked
_INTERRUPTED = 130  # as shells say it: 128 and the number of SIGINT


def end(problems: Sequence[Problem]) -> None:
    """Name what could not be asked, and say so by the exit code."""
    console = stderr()
    for problem in problems:
        console.print(f"left out: {problem}", markup=False, highlight=False, soft_wrap=True)
    if len(problems) > 1:
        console.print(f"{len(problems)} lines or images left out", markup=False, highlight=False)
    if problems:
        raise typer.Exit(LEFT_OUT)


@contextmanager
def resumable(folder: Path, found: int, what: str = "answers") -> Iterator[None]:
    """Say what was ``found`` in a run's folder, and how to go on where the user interrupts."""
    if found:
        _say(f"going on: {found} {what} in {folder}")
    try:
        yield
    except KeyboardInterrupt:
        _say(f"interrupted; the same command goes on in {folder}")
        raise typer.Exit(_INTERRUPTED) from None


def _say(text: str) -> None:
    stderr().print(text, markup=False, highlight=False, soft_wrap=True)
