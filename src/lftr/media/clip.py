"""A clip: frames with their times."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

FRAMES = 8  # frames of a clip, by default


@dataclass(frozen=True)
class Clip:
    """Frames in the order of time.

    Attributes
    ----------
    frames : tuple of PIL.Image.Image
        RGB, all of one size.
    times : tuple of float
        Seconds from the clip's first frame. Of a folder, whose pictures have no times, their
        numbers, from 0.
    """

    frames: tuple[Image.Image, ...]
    times: tuple[float, ...]

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.frames[0].size

    @property
    def fps(self) -> float:
        """Mean number of frames per second; 1 for a single frame."""
        span = self.times[-1] - self.times[0]
        return (len(self.times) - 1) / span if span > 0 else 1.0
