"""Frames of an animated picture: GIF, WebP, PNG, AVIF."""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate
from pathlib import Path

from PIL import Image

from ..errors import LftrError
from .clip import Clip
from .faults import refusing
from .picking import Picking
from .picture import opened
from .viewing import as_viewed

_FORMATS = ("GIF", "WEBP", "PNG", "AVIF", "FLI")  # several pictures of any other are no frames
_SHOWN_MS = 100.0  # a frame without a duration, as browsers show it


def is_animated(path: str | Path) -> bool:
    """Whether a file is a picture that moves.

    Pages of a TIFF, and what a phone puts behind its JPEG (a depth map, a second view), are
    pictures beside each other, not after each other.
    """
    try:
        with refusing("video", path, "an image file"), opened(path) as image:
            return len(_frames(image)) > 1
    except LftrError:
        return False


def _frames(image: Image.Image) -> range:
    """Return the numbers of the frames that are shown; of a still picture none or one."""
    if image.format not in _FORMATS:
        return range(0)
    first = int(getattr(image, "default_image", False))  # shown where a PNG cannot move
    return range(first, getattr(image, "n_frames", 1))


def read_animation(path: Path, picking: Picking, step: Callable[[int, int], None]) -> Clip:
    """Read frames of an animated picture; one is decoded at a time.

    Raises
    ------
    ArgumentError
        If it breaks off.
    """
    with refusing("video", path, "an animated picture that is whole"), opened(path) as image:
        numbers, durations = _frames(image), []
        for number in numbers:
            image.seek(number)
            image.load()
            durations.append(float(image.info.get("duration") or _SHOWN_MS) / 1000)
        times = list(accumulate(durations[:-1], initial=0.0))
        picked, frames = picking.of(times), []
        for place in picked:
            image.seek(numbers[place])
            frames.append(as_viewed(image))
            step(len(frames), len(picked))
        return Clip(tuple(frames), tuple(times[place] for place in picked))
