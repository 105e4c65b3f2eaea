"""The general host: models whose family is not known are read off their own names and shapes."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from transformers import ShieldGemma2Config
from zoo import FAMILIES, VIDEOS, Image, ZooEntry

import lftr
from lftr.hosts.transformers.api import takes_encoded
from lftr.hosts.transformers.families import Family, family_of
from lftr.hosts.transformers.families.general import General
from lftr.values.errors import MissingEvidenceError, UnsupportedModelError

from .support import Prompt, assert_true, reduced
from .test_placing import check_sounds, heard

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


def later(prompt: Prompt, output: Any, **changes: Any) -> dict[str, Any]:
    """The conversation so far and two words more, on the cache that was returned."""
    ids = torch.cat([output.sequences, output.sequences.new_tensor([[20, 21]])], dim=1)
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return given | {"past_key_values": output.past_key_values} | changes


@pytest.mark.parametrize("name", ["hunyuan_vl", "qwen2_5_vl", "qwen3_vl"])
@pytest.mark.parametrize("positions", ["original", "compact"])
def test_axes_of_a_stranger_are_not_shifted_by_a_guess(
    name: str, positions: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HunYuan-VL shifts one of four axes in a later turn; a stranger may do anything."""
    entry = FAMILIES[name]
    prompt = Prompt(entry, [[3, Image("wide"), 4]])
    monkeypatch.delitem(Family.registry, entry.model().config.model_type)
    with lftr.reduce(prompt.model, "random", keep=0.4, positions=positions):
        output = prompt.generate(2)
        with pytest.raises(UnsupportedModelError, match=r"a later turn.* axes; give position_ids"):
            prompt.model.generate(**later(prompt, output), max_new_tokens=1)


def test_a_stranger_with_one_axis_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = FAMILIES["llava"]
    prompt = Prompt(entry, [[3, Image("wide"), 4]])

    def talked() -> torch.Tensor:
        with lftr.reduce(prompt.model, "uniform", keep=0.4):
            output = prompt.generate(2)
            turn = later(prompt, output, return_dict_in_generate=True, output_logits=True)
            return torch.cat(prompt.model.generate(**turn, max_new_tokens=2).logits)

    expected = talked()
    monkeypatch.delitem(Family.registry, entry.model().config.model_type)
    assert torch.equal(talked(), expected)


THINKERS = [name for name in FAMILIES if name.endswith("_thinker")]


@pytest.mark.parametrize("with_clip", [False, True], ids=["before an image", "in a clip"])
@pytest.mark.parametrize("name", THINKERS)
def test_a_stranger_that_hears(name: str, with_clip: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(Family.registry, FAMILIES[name].model().config.model_type)
    check_sounds(name, with_clip=with_clip)


@pytest.mark.parametrize("name", THINKERS)
def test_a_sound_that_cannot_be_placed_is_one_error(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = FAMILIES[name]
    model: Any = entry.model()
    monkeypatch.delitem(Family.registry, model.config.model_type)
    inputs = heard(entry, with_clip=False)
    del inputs["feature_attention_mask"]
    with (
        lftr.reduce(model, "random", keep=0.4),
        pytest.raises(lftr.LftrError, match="or give position_ids yourself"),
    ):
        model.generate(**inputs, max_new_tokens=1)
