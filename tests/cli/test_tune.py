"""`lftr tune`: from a folder to a preset that `lftr run` loads."""

from __future__ import annotations

import importlib
import json

import pytest
from PIL import Image

import lftr as library
from lftr.cli.loading import needs_tower
from lftr.lab.cli.run_folder import LEFT_OUT
from lftr.lab.tuning.plan import Plan

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
        (["--run", f"{__file__}/run"], "--run = "),
        (["--encoder", "tom"], "did you mean 'tome'"),
    ],
    ids=[
        "too few",
        "no workload",
        "agreement",
        "confidence",
        "keep",
        "method",
        "out",
        "run",
        "encoder",
    ],
)
def test_bad_input_says_what_is_allowed(fails, words, said):
    assert said in fails("tune", *words)


def test_default_methods_are_raced_with_the_text_that_run_gives_them():
    """A preset promises what was shown with the bundled model's text tower, or not at all."""
    guided = [method for method in Plan().candidates if needs_tower([method])]
    assert [method.name for method in guided] == ["coverage"]
    assert needs_tower(Plan().candidates)


def test_a_folder_without_prompts(fails, album):
    (album / "prompts.txt").unlink()
    assert "prompts.txt" in fails("tune", album)


@pytest.mark.slow
def test_an_interrupted_search_goes_on_in_a_folder_of_its_own(lftr, album, tmp_path, monkeypatch):
    """Every configuration has one in the working directory; a word says what was found there."""
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module("lftr.lab.tuning.tune")
    words = ["tune", album, *EASY, "--max-new-tokens", 1, "--batch", 1]

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr(module, "prove", interrupted)  # the race is over
        result = lftr(*words)
    assert result.exit_code == 130
    (folder,) = (tmp_path / "lftr-tune").iterdir()
    assert f"continues it in {folder.relative_to(tmp_path)}" in result.stderr
    result = lftr(*words, "--encoder", "tome:r=8")
    assert result.exit_code == 0
    assert "going on" not in result.stderr  # another configuration
    assert len(list((tmp_path / "lftr-tune").iterdir())) == 2
    preset = library.Preset.load("lftr-preset.json")
    assert preset.encoder == library.EncoderToMe(r=8)
    result = lftr(*words)
    assert result.exit_code == 0
    assert f"going on: 16 answers in {folder.relative_to(tmp_path)}" in result.stderr
