"""Frames of an animated picture: GIF, WebP, PNG, AVIF."""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate
from pathlib import Path

from PIL import Image

from ..values.errors import LftrError
from .clip import Clip
from .faults import refusing
from .picking import Picking
from .picture import open_picture
from .viewing import as_viewed

# formats in which several pictures are frames
_FORMATS = ("GIF", "WEBP", "PNG", "AVIF", "FLI")
_DEFAULT_MS = 100.0  # a frame without a duration, as browsers show it


def is_animated(path: str | Path) -> bool:
    """Whether a file is an animated picture.

    Pages of a TIFF, and further pictures in a phone's JPEG (a depth map, a second view), are not
    an animation.
    """
    try:
        with refusing("video", path, "an image file"), open_picture(path) as image:
            return len(_frames(image)) > 1
    except LftrError:
        return False


def _frames(image: Image.Image) -> range:
    """Return the numbers of the frames that are shown; none or one for a still picture."""
    if image.format not in _FORMATS:
        return range(0)
    # the first picture of a PNG may be for viewers without animation
    first = int(getattr(image, "default_image", False))
    return range(first, getattr(image, "n_frames", 1))


def read_animation(path: Path, picking: Picking, step: Callable[[int, int], None]) -> Clip:
    """Read frames of an animated picture; one is decoded at a time.

    Raises
    ------
    ArgumentError
        If it breaks off.
    """
    with refusing("video", path, "an animated picture that is whole"), open_picture(path) as image:
        numbers, durations = _frames(image), []
        for number in numbers:
            image.seek(number)
            image.load()
            durations.append(float(image.info.get("duration") or _DEFAULT_MS) / 1000)
        times = list(accumulate(durations[:-1], initial=0.0))
        picked, frames = picking.of(times), []
        for place in picked:
            image.seek(numbers[place])
            frames.append(as_viewed(image))
            step(len(frames), len(picked))
        return Clip(tuple(frames), tuple(times[place] for place in picked))
