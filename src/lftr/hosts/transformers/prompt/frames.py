"""Images of a row that follow each other as the frames of one video."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate, groupby

from ....values.errors import ArgumentError
from ...items import Framing, Item, in_order


def as_video(items: Sequence[Item], clips: Framing) -> list[Item]:
    """Join images of one grid each, and the same, that follow each other in a row: frames.

    With ``clips`` as numbers, so many images to each video. With a flag for each row, all images of
    a row are of one clip, or none is.
    """
    joined: list[Item] = []
    for row, members in groupby(items, key=lambda item: item.row):
        own = list(members)
        of_row = _of_row(clips, row)
        if of_row is False:
            joined += own
            continue
        if of_row is True and clips is not True:
            own = [replace(item, framed=item.medium == "image") for item in own]
        begins = _begins(of_row, clips, row, sum(item.medium == "image" for item in own))
        image = 0
        for place, item in enumerate(own):
            new = place == 0 or not _goes_on(joined[-1], item)
            if begins is not None:
                if new and image not in begins:
                    raise ArgumentError.of(
                        "images_as_video",
                        clips,
                        "frames that follow each other and have one grid each, the same",
                    )
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


def _of_row(clips: Framing, row: int) -> bool | tuple[int, ...]:
    """Return what is said of a row's images; what is said of one row alone is said of all."""
    if isinstance(clips, bool):
        return clips
    if len(clips) > 1 and row >= len(clips):
        raise ArgumentError.of("images_as_video", clips, f"one for each row; there is a row {row}")
    return clips[0 if len(clips) == 1 else row]


def _begins(
    of_row: bool | tuple[int, ...], clips: Framing, row: int, images: int
) -> set[int] | None:
    """Return which of a row's images begin a video; None where that is for the grids to tell."""
    if isinstance(of_row, bool):
        return None
    if sum(of_row) != images:
        raise ArgumentError.of(
            "images_as_video", clips, f"numbers that add up to the {images} images of row {row}"
        )
    return {0, *accumulate(of_row)}


def _goes_on(clip: Item, frame: Item) -> bool:
    """Whether ``frame`` is one more of the frames that ``clip`` is made of."""
    before, new = clip.layout.grid, frame.layout.grid
    if clip.medium != "image" or frame.medium != "image" or clip.seen != frame.seen:
        return False
    return before is not None and new is not None and before[1:] == new[1:]
