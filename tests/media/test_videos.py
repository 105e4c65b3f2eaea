"""Every kind of video that PyAV writes, compared with what a player shows of it."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from lftr.media import is_clip, load_clip, video
from lftr.values.errors import ArgumentError

from .reference import SIDE, middles

av = pytest.importorskip("av", reason="needs lftr[video]")
# how much each may be off: pixels of colour are twice as wide where chroma is halved
KINDS = {
    ("ffv1", "mkv", "bgr0"): 1.6,
    ("ffv1", "mkv", "bgra"): 1.6,
    ("ffv1", "mkv", "gray"): 1.6,
    ("ffv1", "mkv", "gray16le"): 1.6,
    ("ffv1", "mkv", "yuv444p"): 6,
    ("ffv1", "mkv", "yuv420p10le"): 6,
    ("ffv1", "mkv", "yuva444p"): 8,
    ("png", "mov", "rgb24"): 1.6,
    ("png", "mov", "rgba"): 1.6,
    ("qtrle", "mov", "argb"): 1.6,
    ("libx264", "mp4", "yuv444p"): 20,
    ("libx264", "ts", "yuv444p"): 20,
    ("libx264", "m2ts", "yuv444p"): 20,
}
CONTAINERS = {"ts": "mpegts", "m2ts": "mpegts", "mkv": "matroska"}
ALPHA = ("bgra", "yuva444p", "rgba", "argb")
ANGLES = (0, 90, 180, 270) if hasattr(av.VideoStream, "set_display_rotation") else (0,)


def write(path: Path, kind, frames, aspect=1, rotation=0) -> None:
    """Write frames of flat cells ``(rows, columns, 4)``, RGBA."""
    codec, ending, pixels = kind
    options = {"qp": "4"} if codec == "libx264" else {}
    with av.open(str(path), "w", format=CONTAINERS.get(ending)) as container:
        stream = container.add_stream(codec, rate=10, options=options)
        stream.height, stream.width = (SIDE * n for n in frames[0].shape[:2])
        stream.pix_fmt = pixels
        stream.codec_context.sample_aspect_ratio = Fraction(aspect)
        if rotation:
            stream.set_display_rotation(rotation)
        for number, cells in enumerate(frames):
            whole = np.repeat(np.repeat(cells, SIDE, 0), SIDE, 1).astype(np.uint8)
            if "gray" in pixels:
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(whole[..., 0]), "gray")
            else:
                frame = av.VideoFrame.from_ndarray(whole, "rgba")
            frame = frame.reformat(format=pixels)
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def seen(cells: np.ndarray, kind, rotation: int) -> np.ndarray:
    """Return what a player shows of each cell."""
    cells = cells.astype(float)
    if "gray" in kind[2]:
        cells = np.concatenate([cells[..., :1]] * 3 + [np.full_like(cells[..., :1], 255)], -1)
    alpha = cells[..., 3:] / 255 if kind[2] in ALPHA else 1.0
    return np.rot90(cells[..., :3] * alpha + 255 * (1 - alpha), rotation // 90)


@pytest.mark.parametrize("kind", KINDS, ids="-".join)
@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_videos_are_read_as_players_show_them(tmp_path_factory, kind, data):
    shape = (data.draw(st.integers(1, 3)) * 2, data.draw(st.integers(1, 3)) * 2, 4)
    stream = kind[1] in ("ts", "m2ts")  # needs some packets before FFmpeg takes it for one
    count = 12 if stream else data.draw(st.integers(1, 4))
    frames = data.draw(arrays.arrays(np.int64, (count, *shape), elements=st.integers(0, 255)))
    aspects = [1] if kind[1] == "mkv" else [1, 2, Fraction(1, 2), Fraction(16, 15)]
    aspect = data.draw(st.sampled_from(aspects))  # PyAV writes none into Matroska
    rotation = data.draw(st.sampled_from(ANGLES)) if kind[1] in ("mov", "mp4") else 0
    path = tmp_path_factory.getbasetemp() / f"drawn.{kind[1]}"
    write(path, kind, frames, aspect, rotation)
    assert is_clip(path)
    clip = load_clip(path, frames=12)
    assert len(clip.frames) == count
    size = (round(SIDE * shape[1] * aspect), SIDE * shape[0])
    assert clip.size == (size if rotation % 180 == 0 else size[::-1])
    for shown, cells in zip(clip.frames, frames, strict=True):
        assert (shown.mode, shown.size) == ("RGB", clip.size)
        wanted = seen(cells, kind, rotation)
        np.testing.assert_allclose(middles(shown, wanted.shape), wanted, atol=KINDS[kind])


def test_pixels_twice_as_wide_as_high(tmp_path):
    """As DV and DVD have them; a camera's ``.MTS`` is a clip by its name."""
    path = tmp_path / "anamorphic.MTS"
    write(path, ("libx264", "m2ts", "yuv444p"), [np.full((3, 4, 4), 90)] * 12, aspect=2)
    assert is_clip(path)
    assert load_clip(path).size == (128, 48)


def with_matrix(path: Path, matrix: tuple[int, int, int, int]) -> None:
    """Write a display matrix ``a b c d`` into the one track header of an MP4."""
    content = bytearray(path.read_bytes())
    place = content.index(b"tkhd") + 44
    struct.pack_into(">2i", content, place, *matrix[:2])
    struct.pack_into(">2i", content, place + 12, *matrix[2:])
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("matrix", "turn"),
    [
        ((1, 0, 0, 1), lambda x: x),
        ((-1, 0, 0, 1), np.fliplr),  # the front camera of a phone
        ((1, 0, 0, -1), np.flipud),
        ((-1, 0, 0, -1), lambda x: np.rot90(x, 2)),
        ((0, -1, 1, 0), np.rot90),
        ((0, 1, -1, 0), lambda x: np.rot90(x, -1)),
        ((0, 1, 1, 0), lambda x: x.swapaxes(0, 1)),
        ((0, -1, -1, 0), lambda x: np.rot90(x, 2).swapaxes(0, 1)),
    ],
)
def test_mirrored_and_turned(tmp_path, matrix, turn):
    path = tmp_path / "mirrored.mp4"
    cells = np.random.default_rng(0).integers(0, 256, (2, 4, 4))
    kind = ("libx264", "mp4", "yuv444p")
    write(path, kind, [cells] * 2)
    with_matrix(path, tuple(65536 * one for one in matrix))
    wanted = turn(seen(cells, kind, 0))
    for shown in load_clip(path).frames:
        np.testing.assert_allclose(middles(shown, wanted.shape), wanted, atol=KINDS[kind])


def test_mirrored_and_askew_is_refused(tmp_path):
    path = tmp_path / "askew.mp4"
    write(path, ("libx264", "mp4", "yuv444p"), [np.full((2, 4, 4), 90)] * 2)
    with_matrix(path, (-46341, 46341, 46341, 46341))
    with pytest.raises(ArgumentError, match=r"display matrix.* mirrors"):
        load_clip(path)
    with_matrix(path, (46341, 46341, -46341, 46341))
    assert min(load_clip(path).size) > 64  # turned by 45 degrees, in a larger frame


def test_pixels_of_no_picture(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100_000)
    frame = Image.new("RGB", (64, 48))
    assert [video._width(frame, one) for one in (None, Fraction(0), Fraction(1, 999))] == [
        64,
        64,
        1,
    ]
    with pytest.raises(ArgumentError, match=r"sample aspect ratio = '200'; allowed: .*12800x48"):
        video._width(frame, Fraction(200))


@pytest.mark.parametrize("ending", ["mkv", "avi"])
def test_frames_that_differ_in_size_are_shown_in_that_of_the_first(tmp_path, ending):
    """As a player does, which keeps its window: what is of another shape lies on black."""
    path = tmp_path / f"resized.{ending}"
    sizes, colours = [(64, 48), (32, 24), (48, 64)], [(200, 0, 0), (0, 200, 0), (0, 0, 200)]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=10, options={"qscale": "1"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj444p"
        for number, (size, colour) in enumerate(zip(sizes, colours, strict=True)):
            context = av.CodecContext.create("mjpeg", "w")
            context.width, context.height = size
            context.pix_fmt, context.time_base = "yuvj444p", Fraction(1, 10)
            whole = np.full((size[1], size[0], 3), colour, np.uint8)
            frame = av.VideoFrame.from_ndarray(whole, "rgb24").reformat(format="yuvj444p")
            frame.pts = number
            for packet in [*context.encode(frame), *context.encode(None)]:
                packet.stream = stream
                packet.pts = packet.dts = number
                packet.time_base = Fraction(1, 10)
                container.mux(packet)
    clip = load_clip(path, frames=9)
    assert [one.size for one in clip.frames] == [(64, 48)] * 3
    for shown, colour in zip(clip.frames, colours, strict=True):
        assert np.abs(np.subtract(shown.getpixel((32, 24)), colour)).max() < 20
    assert np.abs(np.subtract(clip.frames[1].getpixel((2, 2)), colours[1])).max() < 20
    assert max(clip.frames[2].getpixel((2, 24))) < 20


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_video_that_breaks_off_is_refused_or_read_as_far_as_it_goes(tmp_path_factory, data):
    folder = tmp_path_factory.getbasetemp()
    kind = data.draw(st.sampled_from(list(KINDS)))
    whole = folder / f"whole.{kind[1]}"
    cells = np.random.default_rng(0).integers(0, 256, (12, 2, 2, 4))
    write(whole, kind, cells)
    content = whole.read_bytes()
    path = folder / f"cut.{kind[1]}"
    path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    said, clip = "", None
    try:
        clip = load_clip(path, frames=12)
    except ArgumentError as error:
        said = str(error)
    if clip is None:
        assert str(path)[:60] in said
        assert "\n" not in said
    else:
        assert 1 <= len(clip.frames) <= 12
        assert (
            kind[1] not in ("mp4", "mov") or len(clip.frames) == 12
        )  # which say how long they are


def test_hidden_files_are_no_frames(folder):
    path = folder(3)
    (path / "._shot1.png").write_bytes(b"\0\5\x16\7Mac OS X")
    (path / ".thumb.png").write_bytes((path / "shot0.png").read_bytes())
    assert len(load_clip(path, frames=9).frames) == 3
