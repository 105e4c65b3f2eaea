"""Which frames of a clip are read."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from ..values.errors import ArgumentError
from .clip import FRAMES


@dataclass(frozen=True)
class Picking:
    """Number of frames to read, evenly spread; the last frame is always among them.

    Attributes
    ----------
    frames : int, optional
        Largest number of frames; 8 if ``fps`` is not given either.
    fps : float, optional
        Frames per second.

    Raises
    ------
    ArgumentError
        If one of them is out of its range.
    """

    frames: int | None = None
    fps: float | None = None

    def __post_init__(self) -> None:
        if self.frames is not None and (
            isinstance(self.frames, bool) or not isinstance(self.frames, int) or self.frames < 1
        ):
            raise ArgumentError.of("frames", self.frames, "a whole number >= 1")
        if self.fps is not None and not 0 < self.fps < math.inf:
            raise ArgumentError.of("fps", self.fps, "a number above 0")

    def of(self, times: Sequence[float]) -> list[int]:
        """Return the numbers of the frames to read, in ascending order.

        Parameters
        ----------
        times : sequence of float
            Start of each frame of the clip, in ascending order; at least one.
        """
        picked = list(range(len(times))) if self.fps is None else self._by_time(times)
        most = self.frames or (FRAMES if self.fps is None else len(picked))
        return [picked[place] for place in spread(len(picked), most)]

    def _by_time(self, times: Sequence[float]) -> list[int]:
        assert self.fps is not None
        span = times[-1] - times[0]
        ticks = (times[0] + tick / self.fps for tick in range(math.floor(span * self.fps) + 1))
        # what is shown at a moment is the last frame that began before it
        indices = (bisect_right(times, tick + 1e-9) - 1 for tick in ticks)
        return list(dict.fromkeys([*indices, len(times) - 1]))


def spread(count: int, most: int) -> list[int]:
    """Return up to ``most`` of ``count`` indices, evenly spread, with the first and the last.

    A single index is the last one.
    """
    if count <= most:
        return list(range(count))
    if most == 1:
        return [count - 1]
    return [(2 * i * (count - 1) + most - 1) // (2 * (most - 1)) for i in range(most)]
