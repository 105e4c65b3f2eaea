"""Pictures and clips that are named on the command line."""

from __future__ import annotations

import os.path
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..media import Clip, is_clip, load_clip, read_image
from ..prompting import Medium
from ..values.errors import ArgumentError
from .options import refuse
from .terminal import progress

if TYPE_CHECKING:
    from ..lab.evaluation import Item


def read_sight(path: str | Path, frames: int | None = None, fps: float | None = None) -> Medium:
    """Read a picture, or frames of a clip with a progress bar.

    Raises
    ------
    ArgumentError
        If it cannot be read, or frames are asked of a still picture.
    """
    if is_clip(path):
        return _clip(path, frames, fps)
    for option, value in (("--frames", frames), ("--fps", fps)):
        if value is not None:
            raise ArgumentError.of(option, value, f"none with a still picture ({path})")
    return read_image(path)


def read_sights(
    paths: Sequence[str], frames: int | None = None, fps: float | None = None
) -> list[Medium]:
    """Read pictures and clips; frames are asked of clips alone.

    Raises
    ------
    ArgumentError
        If one cannot be read, or there is no clip to ask frames of.
    """
    if any(map(is_clip, paths)):
        return [_clip(path, frames, fps) if is_clip(path) else read_image(path) for path in paths]
    return [read_sight(path, frames, fps) for path in paths]


def _clip(path: str | Path, frames: int | None, fps: float | None) -> Clip:
    with progress(f"reading {os.path.basename(path)}", 1) as bar:

        def step(done: int, all: int) -> None:
            bar.update(bar.task_ids[0], completed=done, total=all)

        return load_clip(path, frames, fps, step)


def ask_of_clips(items: Sequence[Item], model: str | None) -> bool:
    """Whether questions are about clips; of a bundled model they are all or none.

    Raises
    ------
    ArgumentError
        If no model is named and some are about clips, some about pictures.
    """
    kinds = {item.moves for item in items}
    if model is None and len(kinds) > 1:
        allowed = "a model of your own for pictures and clips together; the bundled ones know one"
        raise ArgumentError.of("--model", None, allowed)
    return True in kinds


def check_picking(items: Sequence[Item], frames: int | None, fps: float | None) -> None:
    """Refuse to pick frames where no question is about a clip in a file.

    Raises
    ------
    ArgumentError
        Naming the option.
    """
    if not any(item.moves and item.image is not None for item in items):
        refuse({"--frames": frames, "--fps": fps}, "without questions about clips in files")


def moves(media: Sequence[Medium]) -> bool:
    """Whether there is a clip among some media."""
    return any(isinstance(one, Clip) for one in media)
