"""What the client of the examples sends is what vLLM reads."""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lftr.media import load_clip, read_image

MEDIA = Path(__file__).parents[1] / "media/data"


@pytest.fixture
def part_of(monkeypatch: pytest.MonkeyPatch) -> Any:
    if importlib.util.find_spec("openai") is None:
        monkeypatch.setitem(sys.modules, "openai", types.ModuleType("openai"))
    path = Path(__file__).parents[2] / "examples/serving/client.py"
    spec = importlib.util.spec_from_file_location("client", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.part_of


@pytest.fixture
def connector() -> Any:
    media = pytest.importorskip("vllm.multimodal.media", reason="needs lftr[serve]")
    return media.MediaConnector()


@pytest.mark.parametrize("name", ["exif6.jpg", "rgba_black_on_clear.png", "gray16.png"])
def test_a_picture(part_of: Any, connector: Any, name: str) -> None:
    path = MEDIA / name
    found = connector.fetch_image(part_of(str(path))["image_url"]["url"])
    found = getattr(found, "media", found)
    assert np.array_equal(np.asarray(found), np.asarray(read_image(path)))


@pytest.mark.parametrize("frames", [1, 3, 40])
def test_a_clip(part_of: Any, connector: Any, tmp_path: Path, frames: int) -> None:
    """All frames arrive, in their order, and vLLM is told to take them all."""
    greys = [5 * number for number in range(frames)]
    for number, grey in enumerate(greys):
        Image.new("RGB", (64, 48), (grey, grey, grey)).save(tmp_path / f"{number}.png")
    sent = load_clip(tmp_path).frames
    found = connector.fetch_video(part_of(str(tmp_path))["video_url"]["url"])
    shown, told = getattr(found, "media", found)
    assert shown.shape == (len(sent), 48, 64, 3)
    wanted = np.stack([np.asarray(frame) for frame in sent]).astype(int)
    assert np.abs(shown - wanted).max() <= 2
    assert told["total_num_frames"] == len(sent)
    assert told["frames_indices"] == list(range(len(sent)))
    assert told["do_sample_frames"] is False
