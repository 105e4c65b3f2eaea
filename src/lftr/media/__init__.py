"""Clips: frames of a video file, an animated picture, or a folder of pictures.

``lftr.media.load_clip("clip.mp4", frames=16)``. Video files are decoded by PyAV (the extra
``video``); animated pictures and folders need nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..errors import ArgumentError
from .animation import is_animated, read_animation
from .clip import FRAMES, Clip
from .folder import PICTURES, read_folder
from .picking import Picking
from .video import VIDEOS, read_video

ALLOWED = (
    f"a video file ({', '.join(sorted(VIDEOS))}), an animated GIF, WebP or PNG, or a folder of "
    "frames"
)


def load_clip(
    path: str | Path,
    frames: int | None = None,
    fps: float | None = None,
    step: Callable[[int, int], None] = lambda done, all: None,
) -> Clip:
    """Read frames of a clip, evenly spread over it, the last one always among them.

    Only what is asked for is held in memory, however long the clip is; of a video file only what
    lies between a wanted frame and the key frame before it is decoded.

    Parameters
    ----------
    path : str or Path
        A video file, an animated picture, or a folder whose pictures, in the order of their names
        (``2.png`` before ``10.png``), are the frames.
    frames : int, optional
        How many, at most; a shorter clip gives all that it has. By default 8, without ``fps``.
    fps : float, optional
        How many of a second, and the last one; at most ``frames``, if that is given.
    step : callable
        Called with how many frames are read, and how many will be.

    Returns
    -------
    Clip
        With the time of each frame.

    Raises
    ------
    ArgumentError
        If there is no clip, it is empty or breaks off, or an argument is out of its range.
    MissingExtraError
        If it is a video file and PyAV is not installed.
    """
    picking = Picking(frames, fps)
    source = Path(path)
    if source.is_dir():
        return read_folder(source, picking, step)
    if not source.is_file():
        raise ArgumentError.of("video", str(path), f"a path that exists: {ALLOWED}")
    if not source.stat().st_size:
        raise ArgumentError.of("video", str(path), f"a file that is not empty: {ALLOWED}")
    if is_animated(source):
        return read_animation(source, picking, step)
    if source.suffix.lower() in PICTURES - VIDEOS:
        raise ArgumentError.of("video", str(path), f"more than one frame: {ALLOWED}")
    return read_video(source, picking, step)


def is_clip(path: str | Path) -> bool:
    """Whether a path is that of a clip, as far as its name and its first bytes tell.

    A folder is, an animated picture is, and a file that ends like a video; a still picture is not.
    """
    source = Path(path)
    return source.is_dir() or source.suffix.lower() in VIDEOS or is_animated(source)


__all__ = ["ALLOWED", "FRAMES", "Clip", "Picking", "is_clip", "load_clip"]
