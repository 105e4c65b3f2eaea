"""Images of a prompt that are the frames of clips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .errors import ArgumentError


@dataclass(frozen=True)
class Frames:
    """Which images are frames of clips, for models that are given a clip as several images.

    The frames of a clip are one item for the method, for the budget and in the report: a video of
    grid (T, H, W). They follow each other in a row of the batch, whatever text stands between, and
    have the same single grid. By default all images of which that is true are frames of one clip.

    Parameters
    ----------
    counts : sequence of int, or one for each row, optional
        How many images each clip or picture takes, in order: ``(8, 8, 1)`` for two clips and a
        picture. One sequence is for all rows.
    rows : sequence of bool, optional
        For each row, whether all its images are frames of one clip, even if it has one frame; the
        images of other rows are pictures.

    Raises
    ------
    ArgumentError
        If both are given, or one is of another kind.
    """

    counts: Sequence[int] | Sequence[Sequence[int]] = ()
    rows: Sequence[bool] = ()

    def __post_init__(self) -> None:
        counts: Any = self.counts
        if isinstance(counts, (list, tuple)) and any(isinstance(one, int) for one in counts):
            counts = [counts]  # for all rows
        if not isinstance(counts, (list, tuple)) or not all(map(_are_counts, counts)):
            allowed = "how many images each clip takes, at least 1, for all rows or for each row"
            raise ArgumentError.of("counts", self.counts, allowed)
        rows = self.rows
        if not isinstance(rows, (list, tuple)) or not all(isinstance(one, bool) for one in rows):
            raise ArgumentError.of("rows", rows, "True or False for each row")
        if counts and rows:
            raise ArgumentError.of("rows", rows, "() beside counts")
        object.__setattr__(self, "counts", tuple(map(tuple, counts)))
        object.__setattr__(self, "rows", tuple(rows))


def as_frames(images_as_video: object) -> Frames | None:
    """Return the `Frames` that an ``images_as_video`` of earlier releases means.

    Raises
    ------
    ArgumentError
        If it is no bool, no sequence of them, and no counts.
    """
    if images_as_video is None or isinstance(images_as_video, bool):
        return Frames() if images_as_video else None
    if isinstance(images_as_video, Frames):
        return images_as_video
    if not isinstance(images_as_video, (list, tuple)) or not images_as_video:
        allowed = "True, False, or how many images each clip has, at least 1 (for each row)"
        raise ArgumentError.of("images_as_video", images_as_video, allowed)
    if all(isinstance(one, bool) for one in images_as_video):
        return Frames(rows=images_as_video) if any(images_as_video) else None
    return Frames(images_as_video)


def _are_counts(values: object) -> bool:
    return isinstance(values, (list, tuple)) and all(
        isinstance(n, int) and not isinstance(n, bool) and n >= 1 for n in values
    )
