"""A preset stands in for method, keep and positions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import lftr
from lftr.methods import FastV

from .support import WIDE, Prompt, ZooEntry

PRESET = lftr.Preset(lftr.get_method("divprune"), 1 / 4, "compact", model="another/model")


@pytest.mark.parametrize("kind", ["object", "path", "str"])
def test_the_same_as_its_arguments(llava: ZooEntry, tmp_path: Path, kind: str) -> None:
    prompt, path = Prompt(llava, [WIDE]), tmp_path / "preset.json"
    PRESET.save(path)
    given: Any = {"object": PRESET, "path": path, "str": str(path)}[kind]
    with lftr.reduce(prompt.model, "divprune", keep=1 / 4, positions="compact") as expected:
        first = prompt.forward().logits
    with lftr.reduce(prompt.model, preset=given) as reduction:
        second = prompt.forward().logits
        assert any("found on another/model" in note for note in reduction.report.notes)
    assert torch.equal(first, second)
    assert reduction.report.kept == expected.report.kept


def test_inside_the_language_model(llava: ZooEntry, tmp_path: Path) -> None:
    preset = lftr.Preset([lftr.get_method("lftr"), FastV()], 1 / 2)
    preset.save(tmp_path / "p.json")
    prompt = Prompt(llava, [WIDE])
    with lftr.reduce(prompt.model, preset=tmp_path / "p.json") as reduction:
        prompt.forward()
    tokens = [layer.tokens for layer in reduction.report.layers]
    assert tokens == [reduction.report.kept, reduction.report.kept, reduction.report.kept // 2]


@pytest.mark.parametrize(
    "beside",
    [
        {"method": "divprune"},
        {"keep": 0.5},
        {"tokens": 4},
        {"positions": "compact"},
        {"encoder": lftr.EncoderToMe()},
    ],
    ids=repr,
)
def test_nothing_beside_it(llava: ZooEntry, beside: dict[str, Any]) -> None:
    with pytest.raises(lftr.LftrError, match=r"no method, keep, .* or weights"):
        lftr.reduce(llava.model(), preset=PRESET, **beside)


@pytest.mark.parametrize("preset", ["nowhere.json", 3], ids=repr)
def test_no_preset(llava: ZooEntry, preset: Any) -> None:
    with pytest.raises(lftr.LftrError, match="preset"):
        lftr.reduce(llava.model(), preset=preset)
    assert "_lftr_hooks" not in llava.model().__dict__
