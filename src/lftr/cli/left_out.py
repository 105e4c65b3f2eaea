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
    if problems:
        console.print(f"{len(problems)} left out in all", markup=False, highlight=False)
        raise typer.Exit(LEFT_OUT)


@contextmanager
def resumable(folder: Path) -> Iterator[None]:
    """End with a word on how to go on where the user interrupts."""
    try:
        yield
    except KeyboardInterrupt:
        text = f"interrupted; the same command goes on in {folder}"
        stderr().print(text, markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(_INTERRUPTED) from None
