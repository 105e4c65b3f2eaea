"""The kept tokens of a clip, frame by frame: as a sheet, or as a GIF."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from ..drawing import (
    draw_frames,
    kept_of_frames,
    processed_part,
    stack_horizontally,
    stack_vertically,
)
from ..media import Clip
from ..values.errors import ArgumentError
from ..values.report import ItemReport

_SHEET = Image.new("RGB", (64, 64))
_COLUMNS = 4  # of a sheet
_LEAST_MS = 20  # of a frame of a GIF; viewers slow down shorter ones


def check_picture(path: Path) -> None:
    """Refuse a path to which no picture can be written, before a model is loaded.

    Raises
    ------
    ArgumentError
        If its folder is not there or not to be written, or its ending is that of no format that
        Pillow writes in colour.
    """
    folder = path.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK) or path.is_dir():
        raise ArgumentError.of("--out", str(path), "a file in a folder that can be written")
    try:
        _SHEET.save(io.BytesIO(), Image.registered_extensions()[path.suffix.lower()])
    except (KeyError, OSError, ValueError):
        allowed = "a picture file to write, such as .png, .jpg, .webp or .gif"
        raise ArgumentError.of("--out", str(path), allowed) from None


def save(picture: Image.Image, path: Path) -> None:
    """Write a picture.

    Raises
    ------
    ArgumentError
        If the path cannot be written, or its ending is no image format.
    """
    try:
        picture.save(path, optimize=True)
    except (OSError, ValueError) as error:
        raise ArgumentError.of("--out", str(path), f"a picture file to write ({error})") from None


def frame_pictures(item: ItemReport, clip: Clip, processor: Any) -> list[Image.Image]:
    """Return a picture of every frame with its kept tokens, time and count below it.

    Raises
    ------
    ArgumentError
        If the item has no grid of frames.
    """
    if len(item.grids) != 1:
        raise ArgumentError.of("video", f"{len(item.grids)} grids", "a clip of one grid of frames")
    pictures = draw_frames(item, [processed_part(processor, frame) for frame in clip.frames])
    _, rows, columns = item.grids[0]
    times = [
        clip.times[number * len(clip.times) // len(pictures)] for number in range(len(pictures))
    ]
    kept = kept_of_frames(item)
    return [
        stack_horizontally([picture], [f"{time:.1f} s: {count} of {rows * columns}"])
        for picture, time, count in zip(pictures, times, kept, strict=True)
    ]


def save_frames(pictures: Sequence[Image.Image], clip: Clip, path: Path) -> None:
    """Write a GIF with the duration of the clip, or a sheet in any other format.

    Raises
    ------
    ArgumentError
        If the path cannot be written, or its ending is no image format.
    """
    try:
        if path.suffix.lower() == ".gif":
            moving = [picture.quantize(128) for picture in pictures]
            moving[0].save(
                path,
                save_all=True,
                append_images=moving[1:],
                duration=_frame_duration(clip, pictures),
                loop=0,
            )
            return
        sheet(pictures).save(path, optimize=True)
    except (OSError, ValueError) as error:
        raise ArgumentError.of("--out", str(path), f"a picture file to write ({error})") from None


def sheet(pictures: Sequence[Image.Image]) -> Image.Image:
    """Put frames into rows."""
    columns = min(_COLUMNS, math.ceil(math.sqrt(len(pictures))) + 1, len(pictures))
    rows = [pictures[start : start + columns] for start in range(0, len(pictures), columns)]
    return stack_vertically([stack_horizontally(row) for row in rows])


def _frame_duration(clip: Clip, pictures: Sequence[Image.Image]) -> int:
    """Return the milliseconds of each frame, so that the GIF is as long as the clip."""
    span = (clip.times[-1] - clip.times[0]) * len(clip.times) / max(len(clip.times) - 1, 1)
    return max(_LEAST_MS, round(1000 * span / len(pictures)))
