"""A model is told from another of the same name, so that a run never goes on with another."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch

from lftr import bundled
from lftr.lab.asking.fingerprint import weights_of
from lftr.lab.evaluation import Subject


@pytest.fixture
def own() -> Subject:
    """The bundled model, to be changed."""
    return Subject("bundled", *bundled.load(), max_new_tokens=4)


def _trained(subject):
    with torch.no_grad():
        for weight in subject.model.model.language_model.parameters():
            weight += 1e-3


def _generates_otherwise(subject):
    subject.model.generation_config.repetition_penalty = 1.5


def _attends_otherwise(subject):
    subject.model.set_attn_implementation("eager")


def _halved(subject):
    subject.model.to(torch.bfloat16)


def _shows_smaller(subject):
    subject.processor.image_processor.size = {"shortest_edge": 96}


def _prompts_otherwise(subject):
    subject.processor.chat_template = "{{ messages }}"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (_trained, {"weights"}),
        (_generates_otherwise, {"model_config"}),
        (_attends_otherwise, {"model_config"}),
        (_halved, {"weights", "dtype"}),
        (_shows_smaller, {"processor"}),
        (_prompts_otherwise, {"processor"}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_answers_depend_on_is_told(subject, own, change, told):
    before = subject.plain()
    assert own.plain() == before  # loaded twice, it is the same
    change(own)
    after = own.plain()
    assert {key for key in before if before[key] != after[key]} == told


def test_a_text_tower_is_told_by_its_weights(own):
    tower = bundled.load_text_tower(own.model)
    guided = dataclasses.replace(own, text_tower=tower)
    before = guided.plain()["text_tower"]
    with torch.no_grad():
        tower.text_model.text_projection.weight += 1
    assert {k for k, v in guided.plain()["text_tower"].items() if before[k] != v} == {"text"}


def test_versions_are_told(subject, monkeypatch):
    before = subject.plain()
    monkeypatch.setattr("lftr.lab.asking.subject.transformers.__version__", "0")
    assert subject.plain()["versions"] != before["versions"]


def test_every_kind_of_tensor_has_a_digest():
    kinds = [torch.float16, torch.bfloat16, torch.int8, torch.bool, torch.float8_e4m3fn]
    module = torch.nn.Module()
    for number, kind in enumerate(kinds):
        module.register_buffer(f"b{number}", torch.zeros(3, 5).to(kind))
    module.register_buffer("scalar", torch.tensor(1.0))
    module.register_buffer("empty", torch.empty(0))
    module.register_buffer("elsewhere", torch.empty(4, device="meta"))
    other = copy.deepcopy(module)
    assert weights_of(other) == weights_of(module)
    other.scalar += 1
    assert weights_of(other) != weights_of(module)
