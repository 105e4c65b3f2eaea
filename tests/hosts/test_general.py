"""The general host: models whose family is not known are read off their own names and shapes."""

from __future__ import annotations

from typing import Any

import pytest
from zoo import FAMILIES, ZooEntry

import lftr
from lftr.errors import MissingEvidenceError, UnsupportedModelError
from lftr.hosts.transformers.families import Family, family_of
from lftr.hosts.transformers.families.general import General

from .support import Prompt, assert_true, reduced

# Llama 4 leaves its tokens in `last_hidden_state`, which only its own class knows
READABLE = [
    entry
    for entry in FAMILIES.values()
    if entry.traits.container in ("list", "tuple", "tensor") and not entry.traits.encoder_side
]


@pytest.fixture(params=READABLE, ids=str)
def stranger(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ZooEntry:
    """A family that lftr has no class for, as far as the test goes."""
    entry: ZooEntry = request.param
    monkeypatch.delitem(Family.registry, entry.model().config.model_type)
    return entry


def test_the_truth(stranger: ZooEntry) -> None:
    prompt = Prompt(stranger)
    assert type(family_of(prompt.model)) is General
    with reduced(prompt.model) as run:
        output = prompt.generate()
    assert_true(prompt, run, output)
    assert run.report.kept < run.report.tokens
    assert any("lftr verify" in note for note in run.report.notes)


@pytest.mark.parametrize("name", ["llava", "qwen2_vl"])
def test_evidence_that_cannot_be_read_is_refused(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model: Any = FAMILIES[name].model()
    monkeypatch.delitem(Family.registry, model.config.model_type)
    with pytest.raises(MissingEvidenceError, match="attention"):
        lftr.reduce(model, "vispruner", keep=0.5)


def test_a_model_without_encoder_outputs_is_refused_with_the_reason() -> None:
    model: Any = FAMILIES["mllama"].model()
    kept = Family.registry.pop(model.config.model_type)
    try:
        with pytest.raises(UnsupportedModelError, match="mm_encoder_outputs"):
            lftr.reduce(model, "lftr", keep=0.5)
    finally:
        Family.registry[model.config.model_type] = kept
