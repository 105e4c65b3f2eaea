"""Frames of a video file, by PyAV (FFmpeg), which decodes little more than the wanted frames."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from ..values.errors import ArgumentError, MissingExtraError
from .clip import Clip
from .faults import refusing
from .picking import Picking
from .viewing import as_viewed

VIDEOS = frozenset(
    {".mp4", ".m4v", ".mov", ".qt", ".mkv", ".webm", ".avi", ".divx", ".mpg", ".mpeg", ".vob"}
    | {".ts", ".mts", ".m2ts", ".m2t", ".ogv", ".flv", ".f4v", ".wmv", ".asf", ".3gp", ".3g2"}
    | {".mxf", ".y4m"}
)
_ALIGNED = 0.02  # of a display matrix: entries that are smaller by so much turn by less than 1°


@dataclass(frozen=True)
class _Index:
    """Presentation times of a stream's frames, in its time base, read without decoding.

    Attributes
    ----------
    stamps : sequence of int
        Time of every frame, in ascending order.
    keys : sequence of int
        Times of the key frames, in ascending order.
    exact : bool
        Whether the file has presentation times. Without them only decoding times are known, which
        differ if the codec reorders frames.
    """

    stamps: Sequence[int]
    keys: Sequence[int]
    exact: bool

    def times(self, stream: Any) -> list[float]:
        """Return the times of all frames, in seconds from the first."""
        unit = float(stream.time_base or 1)
        return [(stamp - self.stamps[0]) * unit for stamp in self.stamps]

    def key_of(self, stamp: int) -> int:
        """Return the last key frame from which a frame can be decoded."""
        return self.keys[max(bisect_right(self.keys, stamp) - 1, 0)]


def read_video(path: Path, picking: Picking, step: Callable[[int, int], None]) -> Clip:
    """Read frames of a video file, all at the size of the first one that is read.

    If the file's index is not exact (transport streams, some AVI), everything is decoded twice: to
    count the frames, and to keep the wanted ones.

    Raises
    ------
    ArgumentError
        If it cannot be read, holds no video or breaks off.
    MissingExtraError
        If PyAV is not installed.
    """
    av = _pyav()
    frames: list[Image.Image] = []
    with refusing("video", path, "a video file that FFmpeg can read"):
        with av.open(str(path)) as container:
            stream = _stream(path, container)
            index = _index(path, container, stream)
            times = index.times(stream)
            picked = picking.of(times)
            for image in _seek_frames(container, stream, index, [index.stamps[i] for i in picked]):
                frames.append(image)
                step(len(frames), len(picked))
        if len(frames) < len(picked):
            times = _decode_times(av, path)
            picked, frames = picking.of(times), []
            for image in _decode_in_order(av, path, picked):
                frames.append(image)
                step(len(frames), len(picked))
        if len(frames) < len(picked):
            allowed = f"a video that is whole; {len(frames)} of {len(picked)} frames can be decoded"
            raise ArgumentError.of("video", str(path), allowed)
        size = frames[0].size
        same = (one if one.size == size else ImageOps.pad(one, size) for one in frames)
        return Clip(tuple(same), tuple(times[i] for i in picked))


def _pyav() -> Any:
    try:
        import av
    except ImportError:
        raise MissingExtraError.of("av", "video") from None
    return av


def _stream(path: Path, container: Any) -> Any:
    if not container.streams.video:
        kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "none"
        raise ArgumentError.of("video", str(path), f"a file with a video stream; it has {kinds}")
    stream = container.streams.video[0]
    stream.thread_type = "AUTO"
    return stream


def _index(path: Path, container: Any, stream: Any) -> _Index:
    """Read the headers of all packets, without decoding or keeping them."""
    stamps, keys, exact = [], [], True
    for packet in container.demux(stream):
        stamp = packet.dts if packet.pts is None else packet.pts
        if stamp is None or packet.is_discard:
            continue
        stamps.append(stamp)
        exact = exact and packet.pts is not None
        if packet.is_keyframe:
            keys.append(stamp)
    if not stamps:
        raise ArgumentError.of("video", str(path), "a video with at least one frame")
    if len(stamps) < stream.frames:
        there = f"{len(stamps)} of its {stream.frames} frames are there"
        raise ArgumentError.of("video", str(path), f"a video that is whole; {there}")
    ordered = sorted(stamps)
    exact = exact and not (stream.codec_context.has_b_frames and ordered == stamps)
    return _Index(ordered, sorted(keys) or [ordered[0]], exact)


def _seek_frames(
    container: Any, stream: Any, index: _Index, wanted: Sequence[int]
) -> Iterator[Image.Image]:
    """Decode the frames with these times; seek to a key frame if it is ahead.

    Ends early if no frame has exactly one of the times.
    """
    if not index.exact:
        return
    decoded: Iterator[Any] = iter(())
    at: int | None = None  # stamp of the last frame that was decoded
    for stamp in wanted:
        key = index.key_of(stamp)
        if at is None or key > at:
            container.seek(key, stream=stream, backward=True)
            decoded = container.decode(stream)
        match = next((f for f in decoded if f.pts is None or f.pts >= stamp), None)
        if match is None or match.pts != stamp:
            return
        at = stamp
        yield _displayed_image(match, stream)


def _decode_times(av: Any, path: Path) -> list[float]:
    """Decode everything; return the times of all frames, in seconds from the first."""
    with av.open(str(path)) as container:
        stream = _stream(path, container)
        rate = float(stream.average_rate or stream.guessed_rate or 25)
        stamps = [frame.time for frame in container.decode(stream)]
        missing = stream.frames - len(stamps)
    if not stamps or missing > 0:
        allowed = f"a video that is whole; {len(stamps)} of its frames can be decoded"
        raise ArgumentError.of("video", str(path), allowed)
    if None in stamps or stamps != sorted(stamps):
        return [number / rate for number in range(len(stamps))]
    return [stamp - stamps[0] for stamp in stamps]


def _decode_in_order(av: Any, path: Path, wanted: Sequence[int]) -> Iterator[Image.Image]:
    """Decode up to the last wanted frame; return the frames with these numbers."""
    numbers = set(wanted)
    with av.open(str(path)) as container:
        stream = _stream(path, container)
        for number, frame in enumerate(container.decode(stream)):
            if number in numbers:
                yield _displayed_image(frame, stream)
            if number == wanted[-1]:
                return


def _displayed_image(frame: Any, stream: Any) -> Image.Image:
    """Return a decoded frame as a player shows it.

    Non-square pixels are resampled to square ones, the rotation flag of cameras is applied, and
    transparency is put on white.
    """
    if any(component.is_alpha for component in frame.format.components):
        image = as_viewed(Image.fromarray(frame.to_ndarray(format="rgba")))
    else:
        image = frame.to_image()
    width = _width(image, stream.sample_aspect_ratio)
    if width != image.width:
        image = image.resize((width, image.height), Image.Resampling.BICUBIC)
    return _apply_display_matrix(image, frame)


def _apply_display_matrix(image: Image.Image, frame: Any) -> Image.Image:
    """Return a frame turned and mirrored as its display matrix says.

    The matrix has the rows ``a b u``, ``c d v``, ``x y w``: a pixel at ``(x, y)`` is shown at
    ``(a x + c y, b x + d y)``, whatever moves and scales the whole.

    Raises
    ------
    ArgumentError
        If it mirrors and turns by something else than quarters.
    """
    match = next((one for one in frame.side_data if one.type.name == "DISPLAYMATRIX"), None)
    if match is None:
        return image
    a, b, _, c, d, *_ = np.frombuffer(bytes(match)[:36], "=i4").tolist()
    if max(abs(b), abs(c)) < _ALIGNED * min(abs(a), abs(d)):
        across, down = a < 0, d < 0
    elif max(abs(a), abs(d)) < _ALIGNED * min(abs(b), abs(c)):
        image, across, down = image.transpose(Image.Transpose.TRANSPOSE), c < 0, b < 0
    elif a * d > b * c:
        return image.rotate(frame.rotation, expand=True)
    else:
        allowed = "one that mirrors, or turns, by quarters where it does both"
        raise ArgumentError.of("display matrix", (a, b, c, d), allowed)
    image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if across else image
    return image.transpose(Image.Transpose.FLIP_TOP_BOTTOM) if down else image


def _width(image: Image.Image, aspect: Fraction | None) -> int:
    """Return the width of a frame in square pixels; its own have the aspect ratio ``aspect``.

    Raises
    ------
    ArgumentError
        If the picture would exceed Pillow's limit of pixels.
    """
    if not aspect:  # the file gives no aspect ratio
        return image.width
    width = max(1, round(image.width * aspect))
    if Image.MAX_IMAGE_PIXELS is not None and width * image.height > Image.MAX_IMAGE_PIXELS:
        size = f"{width}x{image.height}"
        raise ArgumentError.of(
            "sample aspect ratio", str(aspect), f"a ratio that does not make the picture {size}"
        )
    return width
