"""A folder of pictures as a clip."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from ..values.errors import ArgumentError
from .clip import Clip
from .faults import refusing
from .picking import Picking
from .picture import PICTURES, read_image


def frames_in(path: Path) -> list[Path]:
    """Return the pictures of a folder, sorted by name, with numbers in names sorted by value.

    Hidden files, such as ``._1.png`` of macOS, are left out.
    """
    with refusing("video", path, "a folder that can be read"):
        files = [file for file in path.iterdir() if is_named_as(file, PICTURES) and file.is_file()]
    return sorted(files, key=lambda file: _natural(file.name))


def is_named_as(path: Path, endings: frozenset[str]) -> bool:
    """Whether a file has one of these suffixes and is not hidden."""
    return path.suffix.lower() in endings and not path.name.startswith(".")


def read_folder(path: Path, picking: Picking, step: Callable[[int, int], None]) -> Clip:
    """Read the pictures of a folder as the frames of a clip, see `frames_in`.

    Raises
    ------
    ArgumentError
        If there are none, one cannot be read, they differ in size, or frames of a second are asked
        for: the pictures have no times.
    """
    files = frames_in(path)
    if not files:
        allowed = f"a folder with pictures ({', '.join(sorted(PICTURES))}), the frames"
        raise ArgumentError.of("video", str(path), allowed)
    if picking.fps is not None:
        raise ArgumentError.of(
            "fps", picking.fps, "a number of frames instead: the pictures of a folder have no times"
        )
    picked = picking.of([float(number) for number in range(len(files))])
    frames = []
    for number in picked:
        frames.append(read_image(files[number]))
        if frames[-1].size != frames[0].size:
            sizes = " and ".join(f"{one.width}x{one.height}" for one in (frames[0], frames[-1]))
            raise ArgumentError.of("video", str(files[number]), f"frames of one size, not {sizes}")
        step(len(frames), len(picked))
    return Clip(tuple(frames), tuple(float(number) for number in picked))


def _natural(name: str) -> list[tuple[int, int | str]]:
    """Return a key by which ``2.png`` comes before ``10.png``."""
    parts = re.split(r"(\d+)", name.lower())
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in parts if part]
