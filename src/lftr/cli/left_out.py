"""How a verb ends that could not ask everything: the rest is done, and it says so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from .terminal import stderr

if TYPE_CHECKING:
    from ..evaluation.jsonl import Problem

LEFT_OUT = 3  # exit code of a run that is whole but for questions that could not be asked


def end(problems: Sequence[Problem]) -> None:
    """Name what could not be asked, and say so by the exit code."""
    console = stderr()
    for problem in problems:
        console.print(f"left out: {problem}", markup=False, highlight=False, soft_wrap=True)
    if problems:
        raise typer.Exit(LEFT_OUT)
