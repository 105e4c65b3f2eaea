"""The picture or clip of ``lftr bench``, at every resolution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from ...cli import options
from ...cli.media_args import read_medium
from ...media import Clip
from ...prompting import ImageOrClip
from ...values.errors import ArgumentError


def medium_of(
    path: Path | None,
    suite: str | None,
    frames: int | None,
    fps: float | None,
    question: str | None,
) -> tuple[ImageOrClip, str]:
    """Return the picture or clip, and the question."""
    picking = {"--frames": frames, "--fps": fps}
    if suite is not None:
        options.refuse(picking | {"--image": path, "--question": question}, "beside --suite")
        from .. import suites
        from ..asking.items import Question

        first = Question.of(suites.load(suite, split="test", n=1)[0])
        return first.images[0], first.question
    question = "What is in the picture?" if question is None else question
    if path is None:
        options.refuse(picking, "without --video")
        return _soft_colours(), question
    return read_medium(path, frames, fps), question


def resized(whole: ImageOrClip, resolutions: Sequence[str]) -> list[ImageOrClip]:
    """Return a picture or a clip at every resolution."""
    sizes = [_size(text) for text in resolutions] or [whole.size]
    return [_at(whole, size) for size in sizes]


def _at(medium: ImageOrClip, size: tuple[int, int]) -> ImageOrClip:
    if isinstance(medium, Clip):
        frames = (frame.resize(size, Image.Resampling.BICUBIC) for frame in medium.frames)
        return replace(medium, frames=tuple(frames))
    return medium.resize(size, Image.Resampling.BICUBIC)


def described(medium: ImageOrClip) -> str:
    """Return the size of a picture, or the number and size of a clip's frames, as text."""
    width, height = medium.size
    count = f"{len(medium.frames)} x " if isinstance(medium, Clip) else ""
    return f"{count}{width}x{height}"


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise ArgumentError.of("--resolution", text, "width x height in pixels, as 672x672")
    return int(width), int(height)


def _soft_colours(side: int = 336) -> Image.Image:
    """Draw a deterministic picture without uniform areas."""
    few = np.random.default_rng(0).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    return Image.fromarray(few).resize((side, side), Image.Resampling.BICUBIC)
