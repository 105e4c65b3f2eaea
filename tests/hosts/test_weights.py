"""Slots that stand for several tokens count as many, in every layer, family and kernel."""

from __future__ import annotations

import pytest
import torch

import lftr
from lftr.methods import Merge

from .support import (
    ALL,
    NEW,
    ROWS,
    WIDE,
    Image,
    Prompt,
    Row,
    ZooEntry,
    assert_close,
    assert_true,
    distance,
    last_columns,
    reduced,
)


@pytest.fixture(params=ALL, ids=str)
def entry(request: pytest.FixtureRequest) -> ZooEntry:
    """A family that is shown images, clips, or both."""
    value: ZooEntry = request.param
    return value


def positions_of(entry: ZooEntry) -> str:
    return "compact" if entry.traits.unplaced else "original"


@pytest.mark.parametrize("rows", [[WIDE], ROWS], ids=["one row", "three rows"])
def test_generate(entry: ZooEntry, rows: list[Row]) -> None:
    """The plain language model on the slots, with the logarithms of their weights in its mask."""
    prompt, positions = Prompt(entry, rows), positions_of(entry)
    with reduced(prompt.model, Merge("random"), positions=positions) as run:
        assert_true(prompt, run, prompt.generate(), positions)


def test_control(entry: ZooEntry) -> None:
    """Without weights the answer is another, and it is the plain model's without them."""
    prompt, positions = Prompt(entry, [WIDE]), positions_of(entry)
    with reduced(prompt.model, Merge("random"), positions=positions) as run:
        weighed = prompt.generate(1).logits[0][0]
    with reduced(prompt.model, Merge("random"), positions=positions, weights="none") as run:
        plain = prompt.generate(1).logits[0][0]
        truth = prompt.truth(0, run.choices(), positions=positions, exponent=0.0)[0]
    assert_close(entry, plain, truth)
    assert distance(weighed, plain) > 5e-3
