"""The folder of a run, and how a run continues and ends."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ...cli.terminal import remark
from ...values.errors import ArgumentError

if TYPE_CHECKING:
    from ..asking.problems import Problem

LEFT_OUT = 3  # exit code of a run that is complete except for questions that could not be asked
_INTERRUPTED = 130  # as shells do: 128 plus the number of SIGINT


def folder_of(verb: str, config: Mapping[str, Any]) -> Path:
    """Return the default folder of a configuration; the same command finds it again."""
    text = json.dumps(config, sort_keys=True)
    return _home(verb) / hashlib.sha256(text.encode()).hexdigest()[:10]


def check_folder(option: str, path: Path | None, verb: str) -> None:
    """Refuse a folder, by default the command's own, that cannot be written.

    Raises
    ------
    ArgumentError
        Naming the option.
    """
    folder = path or _home(verb)
    existing = next(one for one in (folder, *folder.absolute().parents) if one.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise ArgumentError.of(option, str(folder), f"a folder to write to ({existing} is none)")


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
        remark(f"interrupted; the same command continues it in {folder}")
        raise typer.Exit(_INTERRUPTED) from None


def _home(verb: str) -> Path:
    return Path(f"lftr-{verb}")
