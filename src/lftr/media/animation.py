"""Frames of an animated picture: GIF, WebP, PNG."""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from ..errors import ArgumentError
from .clip import Clip
from .picking import Picking

_SHOWN_MS = 100.0  # a frame without a duration, as browsers show it
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, UnidentifiedImageError)


def is_animated(path: Path) -> bool:
    """Whether a file is a picture of more than one frame."""
    try:
        with Image.open(path) as image:
            return getattr(image, "n_frames", 1) > 1
    except _BROKEN:
        return False


def read_animation(path: Path, picking: Picking, step: Callable[[int, int], None]) -> Clip:
    """Read frames of an animated picture; one is decoded at a time.

    Raises
    ------
    ArgumentError
        If it breaks off.
    """
    try:
        with Image.open(path) as image:
            durations = []
            for number in range(getattr(image, "n_frames", 1)):
                image.seek(number)
                image.load()
                durations.append(float(image.info.get("duration") or _SHOWN_MS) / 1000)
            times = list(accumulate(durations[:-1], initial=0.0))
            picked, frames = picking.of(times), []
            for number in picked:
                image.seek(number)
                frames.append(image.convert("RGB"))
                step(len(frames), len(picked))
    except _BROKEN as error:
        allowed = f"an animated picture that is whole ({error})"
        raise ArgumentError.of("video", str(path), allowed) from None
    return Clip(tuple(frames), tuple(times[number] for number in picked))
