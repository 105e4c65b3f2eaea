"""Frames of a video file, by PyAV (FFmpeg): what is asked for is decoded, and little else."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from ..errors import ArgumentError, MissingExtraError
from .clip import Clip
from .picking import Picking

VIDEOS = frozenset(
    {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".ogv", ".flv"}
    | {".wmv", ".3gp"}
)


@dataclass(frozen=True)
class _Index:
    """When the frames of a stream are shown, in its own unit, without decoding any.

    Attributes
    ----------
    stamps : sequence of int
        Of every frame, rising.
    keys : sequence of int
        Of those that can be decoded by themselves, rising.
    """

    stamps: Sequence[int]
    keys: Sequence[int]

    def key_of(self, stamp: int) -> int:
        """Return the last key frame from which a frame can be decoded."""
        return self.keys[max(bisect_right(self.keys, stamp) - 1, 0)]


def read_video(path: Path, picking: Picking, step: Callable[[int, int], None]) -> Clip:
    """Read frames of a video file.

    Raises
    ------
    ArgumentError
        If it cannot be read, holds no video or breaks off.
    MissingExtraError
        If PyAV is not installed.
    """
    av = _pyav()
    try:
        with av.open(str(path)) as container:
            stream = _stream(path, container)
            index = _index(path, container, stream)
            first, unit = index.stamps[0], float(stream.time_base or 1)
            times = [(stamp - first) * unit for stamp in index.stamps]
            picked = picking.of(times)
            frames: list[Image.Image] = []
            for image in _decode(container, stream, index, [index.stamps[i] for i in picked]):
                frames.append(image)
                step(len(frames), len(picked))
    except (av.error.FFmpegError, EOFError, OSError) as error:
        allowed = f"a video file that FFmpeg can read ({error})"
        raise ArgumentError.of("video", str(path), allowed) from None
    if len(frames) < len(picked):
        reached = f"{times[picked[len(frames)]]:.1f} of {times[-1]:.1f} s"
        raise ArgumentError.of(
            "video", str(path), f"a video that is whole; it breaks off at {reached}"
        )
    return Clip(tuple(frames), tuple(times[i] for i in picked))


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
    """Read the headers of all packets; nothing is decoded and nothing of them is kept."""
    stamps, keys = [], []
    for packet in container.demux(stream):
        stamp = packet.dts if packet.pts is None else packet.pts
        if stamp is None or packet.is_discard:
            continue
        stamps.append(stamp)
        if packet.is_keyframe:
            keys.append(stamp)
    if not stamps:
        raise ArgumentError.of("video", str(path), "a video with at least one frame")
    if len(stamps) < stream.frames:
        allowed = f"a video that is whole; {len(stamps)} of its {stream.frames} frames are there"
        raise ArgumentError.of("video", str(path), allowed)
    return _Index(sorted(stamps), sorted(keys) or [min(stamps)])


def _decode(
    container: Any, stream: Any, index: _Index, wanted: Sequence[int]
) -> Iterator[Image.Image]:
    """Decode the frames of those stamps, from the nearest key frame on wherever that is ahead."""
    decoded: Iterator[Any] = iter(())
    at: int | None = None  # stamp of the last frame that was decoded
    for stamp in wanted:
        key = index.key_of(stamp)
        if at is None or key > at:
            container.seek(key, stream=stream, backward=True)
            decoded = container.decode(stream)
        for frame in decoded:
            at = frame.pts if frame.pts is not None else frame.dts
            if at is not None and at >= stamp:
                yield upright(frame)
                break
        else:
            return


def upright(frame: Any) -> Image.Image:
    """Return a decoded frame as it is meant to be seen: cameras turn a flag, not the picture."""
    image: Image.Image = frame.to_image()
    turned = getattr(frame, "rotation", 0)
    return image.rotate(turned, expand=True) if turned else image
