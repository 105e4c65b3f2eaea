"""What the tests of evaluation share."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from lftr import bundled
from lftr.lab.evaluation import Subject

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def subject() -> Subject:
    """The bundled model."""
    return Subject("bundled", *bundled.load(), max_new_tokens=4)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two images, one that breaks off, and one that is none."""
    Image.new("RGB", (64, 64), (200, 40, 40)).save(tmp_path / "red.png")
    Image.effect_noise((64, 64), 60).convert("RGB").save(tmp_path / "noise.png")
    whole = (tmp_path / "noise.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.png").write_text("no image")
    return tmp_path


@pytest.fixture
def jsonl(folder: Path) -> Callable[..., Path]:
    """Write lines, objects or raw text, to a JSONL file."""

    def write(*lines: object, name: str = "questions.jsonl") -> Path:
        path = folder / name
        rows = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        path.write_text("\n".join(rows) + "\n")
        return path

    return write
