"""`--weights` reaches the attention of `lftr run` and `eval`, and presets carry it."""

from __future__ import annotations

import pytest

import lftr as library
from lftr.hosts.transformers import reduction


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
