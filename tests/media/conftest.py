"""Clips that name their frames: frame ``n`` shows the bits of ``n`` as stripes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

WIDTH, HEIGHT, BITS = 64, 48, 8


def frame(number: int) -> Image.Image:
    """Draw a number."""
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    for bit in range(BITS):
        if number >> bit & 1:
            pixels[:, bit * 8 : (bit + 1) * 8] = 255
    return Image.fromarray(pixels)


def number_of(image: Image.Image) -> int:
    """Read the number of a frame."""
    row = np.asarray(image.convert("L"))[HEIGHT // 2]
    return sum(int(row[bit * 8 + 4] > 127) << bit for bit in range(BITS))


def numbers_of(frames: Sequence[Image.Image]) -> list[int]:
    """Read the numbers of some frames."""
    return [number_of(one) for one in frames]


@pytest.fixture
def movie(tmp_path: Path) -> Callable[..., Path]:
    """Write a video file of numbered frames."""
    av = pytest.importorskip("av", reason="needs lftr[video]")

    def write(name: str = "clip.mp4", codec: str = "mpeg4", count: int = 30, **options) -> Path:
        path = tmp_path / name
        stamps = options.pop("stamps", range(count))
        with av.open(str(path), "w") as container:
            stream = container.add_stream(codec, rate=10)
            stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
            stream.codec_context.gop_size = 7
            for option, value in options.items():
                getattr(stream, option)(value)
            for number, stamp in enumerate(stamps):
                picture = av.VideoFrame.from_image(frame(number))
                picture.pts = stamp
                container.mux(stream.encode(picture))
            container.mux(stream.encode())
        return path

    return write


@pytest.fixture
def gif(tmp_path: Path) -> Callable[..., Path]:
    """Write a GIF of numbered frames, each shown 200 ms."""

    def write(count: int = 6, name: str = "clip.gif") -> Path:
        path = tmp_path / name
        first, *rest = [frame(number) for number in range(count)]
        first.save(path, save_all=True, append_images=rest, duration=200)
        return path

    return write


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    """Write a folder of numbered frames, named without leading zeros."""

    def write(count: int = 12, name: str = "frames") -> Path:
        path = tmp_path / name
        path.mkdir()
        for number in range(count):
            frame(number).save(path / f"shot{number}.png")
        (path / "notes.txt").write_text("no frame")
        return path

    return write
