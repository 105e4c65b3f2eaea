"""Damaged files: one sentence each, never a traceback."""

from __future__ import annotations

import contextlib
import io
import random
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lftr.lab.asking.jsonl import read_jsonl
from lftr.lab.tuning.workload import load_workload
from lftr.media import is_clip, load_clip, look_at_clip, look_at_image, read_image
from lftr.values.errors import LftrError

from .reference import CHANNELS, MODES, Drawn

VIDEO_EACH = 5  # every fifth file is a video, which takes longer


@pytest.fixture(scope="module")
def seeds() -> list[tuple[str, bytes]]:
    """Return a small file of every kind that can be written, by its ending."""
    found, rng = [], np.random.default_rng(0)
    Image.init()
    for format, modes in MODES.items():
        for mode in modes:
            shape = (2, 2, CHANNELS[mode]) if mode in CHANNELS else (2, 2)
            cells = rng.random(shape) if mode == "F" else rng.integers(0, 2, shape)
            content = io.BytesIO()
            orientation = 6 if format in ("JPEG", "TIFF", "WEBP") else 1
            with contextlib.suppress(KeyError):  # a format that this Pillow does not write
                Drawn(mode, cells, orientation, srgb=mode == "RGB").save(content, format)
                found.append((f".{format.lower()}", content.getvalue()))
    frames = [Image.effect_noise((24, 16), 50).convert("RGB") for _ in range(3)]
    for format in ("GIF", "WEBP", "PNG", "AVIF", "TIFF", "MPO"):
        content = io.BytesIO()
        with contextlib.suppress(KeyError):
            frames[0].save(content, format, save_all=True, append_images=frames[1:])
            found.append((f".{format.lower()}", content.getvalue()))
    found.append((".heic", b"\0\0\0\x18ftypheic\0\0\0\0heicmif1" + bytes(64)))
    return found


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> list[tuple[str, bytes]]:
    """Return some small videos."""
    pytest.importorskip("av", reason="needs lftr[video]")
    from .test_videos import KINDS, write

    found, rng = [], np.random.default_rng(0)
    for kind in KINDS:
        path = tmp_path_factory.mktemp("seeds") / f"seed.{kind[1]}"
        write(path, kind, rng.integers(0, 256, (12, 2, 2, 4)), aspect=2)
        found.append((path.suffix, path.read_bytes()))
    return found


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Cut, overwrite, double or drop parts of a file, its head more often than the rest."""
    data = bytearray(content)
    for _ in range(rng.randint(1, 6)):
        most = min(len(data), rng.choice([64, 256, len(data)])) or 1
        place, length = rng.randrange(most), rng.randint(1, 16)
        kind = rng.randrange(5)
        if kind == 0:
            data = data[: place + 1]
        elif kind == 1:
            data[place : place + length] = rng.randbytes(length)
        elif kind == 2:
            data[place : place + 1] = rng.choice([b"\0", b"\xff", b"\x7f", b"\x80"])
        elif kind == 3:
            del data[place : place + length]
        else:
            data[place:place] = data[place : place + length]
    return bytes(data)


def files(seeds, videos, count: int, folder: Path) -> Iterator[Path]:
    rng = random.Random(15)
    for number in range(count):
        ending, content = rng.choice(videos if number % VIDEO_EACH == 0 else seeds)
        path = folder / f"{number}{ending}"
        path.write_bytes(damaged(content, rng))
        yield path


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """A damaged head that tells of a huge picture takes no minute to be refused."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100_000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, of what it finds on its way
        yield


@pytest.mark.parametrize("count", [200, pytest.param(2000, marks=pytest.mark.slow)])
def test_damaged_files_never_give_a_traceback(seeds, videos, tmp_path, count):
    """By every door; whatever is wrong with them is one line."""
    outcomes = {"read": 0, "refused": 0}
    for path in files(seeds, videos, count, tmp_path):
        for door in (read_image, look_at_image, load_clip, look_at_clip, is_clip):
            said = ""
            try:
                door(path)
            except LftrError as error:
                said = str(error)
            outcomes["refused" if said else "read"] += 1
            assert "\n" not in said, path
    assert min(outcomes.values()) > count / 4  # neither all whole nor all hopeless


def test_a_folder_and_lines_of_damaged_files_name_them(seeds, videos, tmp_path):
    import json

    paths = list(files(seeds, videos, 60, tmp_path))
    workload = load_workload(tmp_path, ["What?"])
    named = {problem.where for problem in workload.problems}
    assert named
    assert named | {Path(item.image or "").name for item in workload.items} == {
        path.name for path in paths if path.suffix != ".jpeg2000"
    }
    assert all("\n" not in str(problem) for problem in workload.problems)
    path = tmp_path / "lines.jsonl"
    lines = [{"image": one.name, "question": "?"} for one in paths]
    lines += [{"video": one.name, "question": "?"} for one in paths]
    long = {"video": "x" * 5000, "question": "?"}
    path.write_text("\n".join(map(json.dumps, [*lines, long, long | {"image": "y" * 5000}])))
    items, problems = read_jsonl(path, answered=False)
    assert len(items) + len(problems) == len(lines) + 2
    assert [problem.where for problem in problems][-2:] == [
        f"lines.jsonl line {len(lines) + n}" for n in (1, 2)
    ]


def test_paths_that_no_system_takes(tmp_path):
    for path in ("x" * 5000, "a\0b", str(tmp_path / "y" / ("z" * 300))):
        assert not is_clip(path)
        for door in (read_image, look_at_image, load_clip, look_at_clip):
            with pytest.raises(LftrError, match="allowed"):
                door(path)
