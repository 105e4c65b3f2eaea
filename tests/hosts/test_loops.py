"""The caller's own decoding loops: through `lftr.prepare`, or through plain calls of the model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import lftr

from .support import SQUARE, WIDE, Prompt, Row, ZooEntry, assert_close, cached, reduced

STEPS = 3
ROWS: list[Row] = [WIDE, SQUARE]


def check(prompt: Prompt, run: Any, logits: list[Tensor]) -> None:
    steps = torch.stack(logits, dim=1)
    for row in range(len(prompt.rows)):
        new = steps[row].argmax(dim=-1).tolist()
        assert_close(prompt.entry, steps[row], prompt.truth(row, run.choices(row), new[:-1]))


@pytest.mark.parametrize("inside", [True, False], ids=["inside", "after"])
def test_prepared(entry: ZooEntry, inside: bool) -> None:
    """Everything in the prepared inputs is explicit, so the reduction may even be over."""
    prompt = Prompt(entry, ROWS)
    with reduced(prompt.model) as run:
        short = lftr.prepare(prompt.model, **prompt.inputs())
        assert not {"pixel_values", "image_grid_thw", "image_sizes"} & set(short)
        assert run.report.received == 0
        if inside:
            check(prompt, run, decode(prompt.model, short))
    if not inside:
        check(prompt, run, decode(prompt.model, short))


def decode(model: Any, short: dict[str, Any]) -> list[Tensor]:
    output = cached(model, short)
    logits = [output.logits[:, -1]]
    mask, places = short["attention_mask"], short["position_ids"][..., -1:]
    for _ in range(STEPS):
        mask, places = torch.nn.functional.pad(mask, (0, 1), value=1), places + 1
        output = model(
            input_ids=logits[-1].argmax(dim=-1, keepdim=True),
            attention_mask=mask,
            position_ids=places,
            past_key_values=output.past_key_values,
        )
        logits.append(output.logits[:, -1])
    return logits


@pytest.mark.parametrize("mask", ["grown", "none"])
def test_plain_calls(entry: ZooEntry, mask: str) -> None:
    """The caller's mask speaks of the full prompt; the cache knows what it was filled with."""
    prompt = Prompt(entry, ROWS)
    inputs = prompt.inputs()
    with reduced(prompt.model) as run:
        output = cached(prompt.model, inputs)
        choices = [run.choices(row) for row in range(len(ROWS))]
        logits = [output.logits[:, -1]]
        grown = inputs["attention_mask"]
        for _ in range(STEPS):
            grown = torch.nn.functional.pad(grown, (0, 1), value=1)
            output = prompt.model(
                input_ids=logits[-1].argmax(dim=-1, keepdim=True),
                past_key_values=output.past_key_values,
                **({"attention_mask": grown} if mask == "grown" else {}),
            )
            logits.append(output.logits[:, -1])
    run.choices = choices.__getitem__  # type: ignore[method-assign]
    check(prompt, run, logits)


def test_prepare_needs_a_reduction(llava: ZooEntry) -> None:
    prompt = Prompt(llava)
    with pytest.raises(lftr.LftrError, match="no reduction is on"):
        lftr.prepare(prompt.model, **prompt.inputs())
