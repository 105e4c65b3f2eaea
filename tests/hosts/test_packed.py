"""Rows in which several documents are packed: each sees itself alone, or the call is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import lftr
from lftr.methods.inside.schedules import Step
from lftr.values.errors import UnsupportedModelError

from .inside.support import Own, first_layer
from .support import FAMILIES, SQUARE, WIDE, Prompt, distance

NAMES = ["llava", "qwen2_5_vl", "internvl", "qwen3_vl", "cohere2_vision", "idefics3"]
PER_ITEM = ("pixel_values", "image_grid_thw", "pixel_attention_mask")


def packed(prompt: Prompt) -> dict[str, Any]:
    """The rows of a prompt one after the other in one row, as a padding-free collator makes it."""
    rows = [prompt.alone(row) for row in range(len(prompt.rows))]
    alone = [row.inputs() for row in rows]
    model = prompt.model
    places = [model._prepare_position_ids_for_generation(one["input_ids"], one) for one in alone]
    found = {"position_ids": torch.cat(places, dim=-1)}
    for name in alone[0]:
        if name == "attention_mask":
            continue
        parts = [one[name] for one in alone]
        tiles_of_rows = prompt.entry.name == "idefics3"
        axis = 0 if name in PER_ITEM and not tiles_of_rows else 1
        found[name] = torch.cat(parts, dim=axis)
    return found


def logits(prompt: Prompt, inputs: dict[str, Any], **options: Any) -> Tensor:
    found: Tensor = prompt.model(**inputs, use_cache=False, **options).logits
    return found


@pytest.fixture(params=NAMES)
def prompt(request: Any) -> Prompt:
    return Prompt(FAMILIES[request.param], [WIDE, SQUARE])


def test_keeping_all_keeps_the_documents_apart(prompt: Prompt) -> None:
    inputs = packed(prompt)
    plain = logits(prompt, inputs)
    last = logits(prompt.alone(1), prompt.alone(1).inputs())
    assert distance(plain[:, -last.shape[1] :], last) < 1e-4  # transformers does keep them apart
    with lftr.reduce(prompt.model, "uniform", keep=1.0):
        assert torch.equal(logits(prompt, inputs), plain)
    with lftr.reduce(prompt.model, Own(Step(first_layer(prompt.entry), 1.0))):
        assert torch.equal(logits(prompt, inputs), plain)


def test_dropping_is_refused(prompt: Prompt) -> None:
    inputs = packed(prompt)
    for method, keep in (("uniform", 0.5), (Own(Step(first_layer(prompt.entry), 0.5)), None)):
        with lftr.reduce(prompt.model, method, keep=keep):
            for call in (prompt.model, prompt.model.generate):
                with pytest.raises(UnsupportedModelError, match="a row holds several documents"):
                    call(**inputs, use_cache=False)


def test_a_mask_says_that_a_row_is_one_document(prompt: Prompt) -> None:
    """Positions that jump, with a mask of ones, are no borders to transformers, nor to lftr."""
    inputs = packed(prompt)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    with lftr.reduce(prompt.model, "uniform", keep=0.5) as reduction:
        logits(prompt, inputs)
    assert reduction.report.kept < reduction.report.tokens


@pytest.mark.parametrize("name", ["cu_seq_lens_q", "seq_idx"])
def test_borders_given_as_lengths(name: str) -> None:
    prompt = Prompt(FAMILIES["llava"], [WIDE])
    inputs = prompt.inputs() | {name: torch.tensor([[0, 9]])}
    with (
        lftr.reduce(prompt.model, "uniform", keep=0.5),
        pytest.raises(UnsupportedModelError, match="a row holds several documents"),
    ):
        prompt.model(**inputs)
