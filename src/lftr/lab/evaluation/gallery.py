"""Thumbnails of the examples on which settings differ most."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from PIL import Image

from ...drawing import processed_part
from ...media.clip import Clip
from ...prompting import ImageOrClip
from ...values.errors import LftrError
from ..asking.items import Item
from ..asking.journal import unwritable
from ..asking.problems import Problem
from .runs import Run

_DISAGREEING, _AGREEING = 16, 8
_SIDE = 336


def gallery(run: Run) -> list[str]:
    """Return the ids of up to 24 examples of a run.

    The 16 on which the most settings differ from the full model, then 8 on which all agree.
    """
    full = run.config["settings"][0]["label"]
    right = {line["id"]: line["answer"] for line in run.predictions if line["setting"] == full}
    differ = Counter(dict.fromkeys(sorted(right), 0))
    for line in run.predictions:
        if line["id"] in right:
            differ[line["id"]] += line["answer"] != right[line["id"]]
    worst = [id for id, count in differ.most_common(_DISAGREEING) if count]
    return worst + [id for id in differ if not differ[id]][:_AGREEING]


def _picture(medium: ImageOrClip, processor: Any) -> Image.Image:
    """Return a small picture; the frames of a clip stand below each other, as its grid does."""
    if isinstance(medium, Clip):
        frames = [_picture(frame, processor) for frame in medium.frames]
        width, height = frames[0].size
        strip = Image.new("RGB", (width, height * len(frames)))
        for number, frame in enumerate(frames):
            strip.paste(frame, (0, number * height))
        return strip
    picture = processed_part(processor, medium.copy())
    picture.thumbnail((_SIDE, _SIDE), Image.Resampling.BICUBIC)
    return picture


def write_thumbnails(run: Run, items: Sequence[Item], processor: Any) -> list[Problem]:
    """Write the pictures of a run's `gallery`, each frame at most 336 pixels wide and high.

    A picture is cropped as the processor crops it, so that the grid of tokens fits it.

    Returns
    -------
    list of Problem
        Pictures whose images can no longer be read.

    Raises
    ------
    ArgumentError
        If the run's folder cannot be written.
    """
    problems = []
    wanted = set(gallery(run))
    for item in items:
        path = run.image(item.id)
        if item.id in wanted and not path.exists():
            try:
                image = item.images[0]
            except LftrError as error:
                problems.append(Problem(item.id, f"no thumbnail: {error}"))
                continue
            picture = _picture(image, processor)
            try:
                path.parent.mkdir(exist_ok=True)
                picture.save(path, optimize=True)
            except OSError as error:
                raise unwritable(run.path, error) from None
    return problems
