"""`lftr tune`: from a folder to a preset that `lftr run` loads."""

from __future__ import annotations

import json

import pytest
from PIL import Image

import lftr as library
from lftr.cli.left_out import LEFT_OUT

EASY = ("--agreement", 0.5, "--confidence", 0.5, "--method", "uniform", "--keep", 0.999)


@pytest.fixture
def album(tmp_path):
    """Twelve images, one file that is none, and one prompt."""
    folder = tmp_path / "album"
    folder.mkdir()
    for number in range(12):
        Image.new("RGB", (32, 32), (200, 20 * number, 40)).save(folder / f"{number:02}.png")
    (folder / "prompts.txt").write_text("What colour is the square?\n")
    return folder


@pytest.mark.slow
def test_writes_a_preset_that_run_loads(lftr, reads, picture, album, tmp_path):
    out = tmp_path / "preset.json"
    told = reads("tune", album, *EASY, "--out", out, "--max-new-tokens", 2)
    assert told["preset"] == str(out)
    assert told["method"] == "uniform"
    assert told["problems"] == []
    assert told["found"]["tested"][0]["verdict"] == "holds"
    preset = library.Preset.load(out)
    assert preset.to_plain() == {
        key: told[key] for key in preset.to_plain()
    }  # what is printed is what is written
    assert preset.keep == 0.999
    assert preset.found["kept"] == 576
    run = reads("run", picture, "What?", "--preset", out, "--max-new-tokens", 1)
    assert run["report"]["kept"] == 576


@pytest.mark.slow
def test_says_verdict_saving_and_what_was_left_out(lftr, album, tmp_path):
    (album / "broken.png").write_text("no image")
    result = lftr("tune", album, *EASY, "--out", tmp_path / "p.json", "--max-new-tokens", 1)
    assert result.exit_code == LEFT_OUT
    assert "left out: broken.png" in result.stderr
    assert "576 of 576 tokens hold an agreement of 0.5" in result.stdout
    assert "ms after the encoder" in result.stdout
    assert json.loads((tmp_path / "p.json").read_text())["format"] == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--n", 30], "30 images with questions'; allowed: at least 94 images"),
        (["absent"], "workload = 'absent'"),
        (["--agreement", 1], "agreement = 1.0; allowed: a number between 0 and 1"),
        (["--confidence", 0], "confidence = 0.0"),
        (["--keep", 0], "keep = "),
        (["--method", "divprun"], "did you mean 'divprune'"),
        (["--out", "absent/preset.json"], "preset = 'absent/preset.json'"),
    ],
    ids=["too few", "no workload", "agreement", "confidence", "keep", "method", "out"],
)
def test_bad_input_says_what_is_allowed(fails, words, said):
    assert said in fails("tune", *words)


def test_a_folder_without_prompts(fails, album):
    (album / "prompts.txt").unlink()
    assert "prompts.txt" in fails("tune", album)
