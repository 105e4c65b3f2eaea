"""What the client of the examples sends: pictures and clips as every verb reads them."""

from __future__ import annotations

import base64
import importlib.util
import io
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

DATA = Path(__file__).parent / "data"
CLIENT = Path(__file__).parents[2] / "examples/serving/client.py"


@pytest.fixture
def client(monkeypatch):
    if importlib.util.find_spec("openai") is None:
        monkeypatch.setitem(sys.modules, "openai", types.ModuleType("openai"))
    spec = importlib.util.spec_from_file_location("client", CLIENT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def sent(text: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(text)))


def test_pictures_are_sent_as_viewers_show_them(client):
    for name, size in (("exif6.jpg", (200, 300)), ("mpo_small.jpg", (300, 200))):
        part = client.part_of(str(DATA / name))
        assert part["type"] == "image_url"
        head, _, content = part["image_url"]["url"].partition(",")
        assert head == "data:image/png;base64"
        assert sent(content).size == size
    clear = client.part_of(str(DATA / "rgba_black_on_clear.png"))["image_url"]["url"]
    assert np.asarray(sent(clear.partition(",")[2])).max() == 255


def test_clips_are_sent_as_frames(client, gif, folder):
    for path in (gif(6), folder(6)):
        part = client.part_of(str(path))
        assert part["type"] == "video_url"
        head, *frames = part["video_url"]["url"].split(",")
        assert head == "data:video/jpeg;base64"
        assert [sent(frame).size for frame in frames] == [(64, 48)] * 6
