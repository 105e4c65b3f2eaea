"""Read pictures and clips as viewers and players show them.

``lftr.media.read_image("photo.jpg")``, and ``lftr.media.load_clip("clip.mp4", frames=16)`` for
frames of a video file, an animated picture or a folder of pictures. All of lftr reads media by
these two functions. PyAV (the extra ``video``) decodes video files and pillow-heif (``heic``) HEIC;
everything else needs no extra.
"""

from __future__ import annotations

import os.path
from collections.abc import Callable
from pathlib import Path

from ..values.errors import ArgumentError
from .animation import is_animated, read_animation
from .clip import FRAMES, Clip
from .faults import refusing
from .folder import frames_in, is_named_as, read_folder
from .picking import Picking
from .picture import PICTURES, look_at_image, read_image
from .video import VIDEOS, read_video

ALLOWED = (
    f"a video file ({', '.join(sorted(VIDEOS))}), an animated GIF, WebP, PNG or AVIF, or a folder "
    "of frames"
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
    if os.path.isdir(source):
        return read_folder(source, picking, step)
    _check_there(source)
    if is_animated(source):
        return read_animation(source, picking, step)
    if source.suffix.lower() in PICTURES - VIDEOS:
        raise ArgumentError.of("video", str(path), f"more than one frame: {ALLOWED}")
    return read_video(source, picking, step)


def is_clip(path: str | Path) -> bool:
    """Whether a path is that of a clip, as far as its name and its first bytes tell.

    A folder is, an animated picture is, and a file that ends like a video; a still picture is not.
    """
    source = Path(path)  # os.path, since Path.is_dir raises if a name is too long for the system
    return os.path.isdir(source) or source.suffix.lower() in VIDEOS or is_animated(source)


def look_at_clip(path: str | Path) -> None:
    """Check that a path is a clip, without decoding it.

    Raises
    ------
    ArgumentError
        If there is no clip. A clip that is truncated passes.
    """
    source = Path(path)
    if not os.path.isdir(source):
        _check_there(source)
    if not is_clip(source):
        raise ArgumentError.of("video", str(path), ALLOWED)


def _check_there(source: Path) -> None:
    if not os.path.isfile(source):
        raise ArgumentError.of("video", str(source), f"a path that exists: {ALLOWED}")
    with refusing("video", source, ALLOWED):
        size = source.stat().st_size
    if not size:
        raise ArgumentError.of("video", str(source), f"a file that is not empty: {ALLOWED}")


__all__ = [
    "ALLOWED",
    "FRAMES",
    "PICTURES",
    "VIDEOS",
    "Clip",
    "Picking",
    "frames_in",
    "is_clip",
    "is_named_as",
    "load_clip",
    "look_at_clip",
    "look_at_image",
    "read_image",
]
