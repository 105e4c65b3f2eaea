"""The general host: models whose family is not known are read off their own names and shapes."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from transformers import ShieldGemma2Config
from zoo import FAMILIES, VIDEOS, ZooEntry

import lftr
from lftr.errors import MissingEvidenceError, UnsupportedModelError
from lftr.hosts.transformers.api import takes_encoded
from lftr.hosts.transformers.families import Family, family_of
from lftr.hosts.transformers.families.general import General

from .support import Prompt, assert_true, reduced

# Llama 4 leaves its tokens in `last_hidden_state`, which only its own class knows
READABLE = [
    entry
    for entry in (*FAMILIES.values(), VIDEOS["qwen2_5_vl"], VIDEOS["qwen3_vl"])
    if entry.traits.container in ("list", "tuple", "tensor")
    and not entry.traits.encoder_side
    # of an Inkling, and of HunYuan-VL before 5.20, features do not tell where an image ends
    and entry.traits.unit not in ("token", "batch")
]


@pytest.fixture(params=READABLE, ids=str)
def stranger(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ZooEntry:
    """A family that lftr has no class for, as far as the test goes."""
    entry: ZooEntry = request.param
    if not takes_encoded(entry.model()):  # PaddleOCR-VL before 5.21
        pytest.skip(f"forward of {entry} names no mm_encoder_outputs on this release")
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


def test_one_architecture_under_another_name() -> None:
    """ShieldGemma 2 is loaded as a Gemma 3 that calls itself otherwise."""
    entry = FAMILIES["gemma3"]
    named = copy.deepcopy(entry.model())
    own = named.config.to_dict()
    named.config = ShieldGemma2Config(
        **{name: own[name] for name in ("text_config", "vision_config", "mm_tokens_per_image")},
        image_token_index=own["image_token_index"],
    )
    assert type(family_of(named)) is type(family_of(entry.model()))
    prompt, renamed = Prompt(entry), Prompt(entry, model=named)
    with reduced(prompt.model):
        expected = prompt.generate()
    with reduced(named):
        found = renamed.generate()
    assert torch.equal(found.sequences, expected.sequences)
