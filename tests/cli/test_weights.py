"""`--weights` reaches the attention under every command that has it, and presets carry it."""

from __future__ import annotations

import pytest
from PIL import Image

import lftr as library
from lftr.hosts.transformers import reduction
from lftr.values.weights import parse_weights


@pytest.fixture
def exponents(monkeypatch):
    """Return the exponent of every reduction of a model that is made."""
    found = []

    def noted(*given):
        plan = with_weights(*given)
        found.append(plan.weights)
        return plan

    with_weights = reduction.with_weights
    monkeypatch.setattr(reduction, "with_weights", noted)
    return found


@pytest.mark.parametrize(("word", "exponent"), [("0.5", 0.5), ("none", 0.0), (None, 1.0)])
def test_run(reads, picture, exponents, word, exponent):
    words = ("--method", "tome", "--max-new-tokens", "1") + (("--weights", word) if word else ())
    report = reads("run", picture, "What?", *words)["report"]
    assert exponents == [exponent]
    assert report["weights"] == exponent


@pytest.mark.parametrize("weights", ["none", "size", 0.5])
def test_presets(reads, picture, tmp_path, weights):
    path = tmp_path / "preset.json"
    library.Preset("tome", keep=1 / 16, weights=weights).save(path)
    assert library.Preset.load(path).weights == weights
    report = reads("run", picture, "What?", "--preset", path, "--max-new-tokens", "1")["report"]
    assert report["weights"] == {"none": 0.0, "size": 1.0}.get(weights, weights)


@pytest.mark.slow
def test_eval(lftr, exponents, tmp_path):
    words = ("--method", "tome", "--keep", "1/16", "--weights", "0.5", "--out", tmp_path / "run")
    result = lftr("eval", "--suite", "scenes", "--n", 2, *words)
    assert result.exit_code == 0, result.output
    assert set(exponents) == {0.5, 1.0}  # 1 in the rows of the full model


@pytest.mark.slow
@pytest.mark.parametrize("word", ["0.5", "none"])
def test_verify(reads, exponents, word):
    """The reference takes them too, so it would not be right with other ones."""
    told = reads("verify", "--method", "tome", "--weights", word)
    assert told["ok"] is True
    assert set(exponents) == {float(word) if word != "none" else 0.0}


@pytest.mark.slow
def test_demo(lftr, exponents, tmp_path):
    words = ("--method", "tome", "--weights", "0.5", "--questions", 2, "--out", tmp_path)
    result = lftr("demo", *words)
    assert result.exit_code == 0, result.output
    assert set(exponents) == {0.5, 1.0}


@pytest.mark.slow
def test_bench(reads, exponents):
    words = ("--method", "tome", "--keep", "1/16", "--rounds", 1, "--decode", 1)
    reads("bench", *words, "--weights", "0.5")
    assert set(exponents) == {0.5}


@pytest.mark.slow
def test_tune(reads, exponents, tmp_path):
    """The preset has them, and so has what is measured."""
    folder = tmp_path / "album"
    folder.mkdir()
    for number in range(12):
        Image.new("RGB", (32, 32), (200, 20 * number, 40)).save(folder / f"{number:02}.png")
    (folder / "prompts.txt").write_text("What colour is the square?\n")
    easy = ("--agreement", 0.5, "--confidence", 0.5, "--keep", 0.999, "--max-new-tokens", 1)
    out = tmp_path / "preset.json"
    reads("tune", folder, *easy, "--method", "tome", "--weights", "0.5", "--out", out)
    assert set(exponents) == {0.5, 1.0}
    assert parse_weights(library.Preset.load(out).weights) == 0.5
