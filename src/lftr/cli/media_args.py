"""Pictures and clips of a command's arguments."""

from __future__ import annotations

import os.path
from collections.abc import Sequence
from pathlib import Path

from ..media import Clip, is_clip, load_clip, read_image
from ..prompting import ImageOrClip
from ..values.errors import ArgumentError
from .terminal import progress


def read_medium(
    path: str | Path, frames: int | None = None, fps: float | None = None
) -> ImageOrClip:
    """Read a picture, or frames of a clip with a progress bar.

    Raises
    ------
    ArgumentError
        If it cannot be read, or ``frames`` or ``fps`` is given for a still picture.
    """
    if is_clip(path):
        return _clip(path, frames, fps)
    for option, value in (("--frames", frames), ("--fps", fps)):
        if value is not None:
            raise ArgumentError.of(option, value, f"none with a still picture ({path})")
    return read_image(path)


def read_media(
    paths: Sequence[str], frames: int | None = None, fps: float | None = None
) -> list[ImageOrClip]:
    """Read pictures and clips; ``frames`` and ``fps`` apply to clips.

    Raises
    ------
    ArgumentError
        If one cannot be read, or ``frames`` or ``fps`` is given without a clip.
    """
    if any(map(is_clip, paths)):
        return [_clip(path, frames, fps) if is_clip(path) else read_image(path) for path in paths]
    return [read_medium(path, frames, fps) for path in paths]


def _clip(path: str | Path, frames: int | None, fps: float | None) -> Clip:
    with progress(f"reading {os.path.basename(path)}", 1) as bar:

        def step(done: int, all: int) -> None:
            bar.update(bar.task_ids[0], completed=done, total=all)

        return load_clip(path, frames, fps, step)


def moves(media: Sequence[ImageOrClip]) -> bool:
    """Whether there is a clip among some media."""
    return any(isinstance(one, Clip) for one in media)
