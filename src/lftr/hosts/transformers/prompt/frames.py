"""Join images of a row that are the frames of one video."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate, groupby
from typing import Any, TypeVar

from ....values.errors import ArgumentError
from ....values.frames import Frames
from ...items import VisualItem, in_order

T = TypeVar("T")


def as_video(items: Sequence[VisualItem], frames: Frames) -> list[VisualItem]:
    """Join the images that are frames of one clip into one item.

    Raises
    ------
    ArgumentError
        If ``frames`` does not fit the rows, or joins images that cannot be frames of one clip.
    """
    joined: list[VisualItem] = []
    for row, members in groupby(items, key=lambda item: item.row):
        in_row = list(members)
        if frames.rows:
            if not _of_row(frames.rows, row, frames):
                joined += in_row
                continue
            in_row = [replace(item, framed=item.medium == "image") for item in in_row]
        begins = _begins(frames, row, sum(item.medium == "image" for item in in_row))
        image = 0
        for place, item in enumerate(in_row):
            new = place == 0 or not _goes_on(joined[-1], item)
            if begins is not None:
                if new and image not in begins:
                    allowed = "frames that follow each other and have one grid each, the same"
                    raise ArgumentError.of("frames", frames, allowed)
                new = image in begins
            image += item.medium == "image"
            if new:
                joined.append(item)
                continue
            before = joined[-1]
            joined[-1] = replace(
                before,
                size=before.size + item.size,
                layout=before.layout.followed_by(item.layout),
                views=before.views + item.views,
                entries=before.entries + item.entries,
            )
    return in_order(joined)


def _of_row(values: Sequence[T], row: int, frames: Frames) -> T:
    """Return the value of a row; one value alone is for all rows."""
    if len(values) > 1 and row >= len(values):
        raise ArgumentError.of("frames", frames, f"one for each row; there is a row {row}")
    return values[0 if len(values) == 1 else row]


def _begins(frames: Frames, row: int, images: int) -> set[int] | None:
    """Return which of a row's images begin a clip; None where their grids decide."""
    if not frames.counts:
        return None
    counts: Any = _of_row(frames.counts, row, frames)
    if sum(counts) != images:
        allowed = f"numbers that add up to the {images} images of row {row}"
        raise ArgumentError.of("frames", frames, allowed)
    return {0, *accumulate(counts)}


def _goes_on(clip: VisualItem, frame: VisualItem) -> bool:
    """Whether ``frame`` is the next frame of ``clip``."""
    before, new = clip.layout.grid, frame.layout.grid
    if clip.medium != "image" or frame.medium != "image" or clip.seen != frame.seen:
        return False
    return before is not None and new is not None and before[1:] == new[1:]
