"""Every family: what the layers work on is what the plain model sees with the rest hidden."""

from __future__ import annotations

import pytest
import torch

import lftr

from ..support import HOSTED, SQUARE, WIDE, Prompt, ZooEntry, assert_close, distance
from .support import (
    Previous,
    Recorder,
    assert_true,
    depth,
    first_layer,
    logits_of,
    methods_for,
    skips_for,
)

LINEAR = "linear-attention layers have no keys that a mask could hide"
INSIDE = [e for e in HOSTED if e.name != "gemma4_shared"]
MASKED = [e for e in INSIDE if not e.traits.stateful]
kinds = pytest.mark.parametrize("kind", list(methods_for(HOSTED[0])))


@pytest.fixture(params=MASKED, ids=str, scope="session")
def family(request: pytest.FixtureRequest) -> ZooEntry:
    value: ZooEntry = request.param
    return value


@kinds
def test_prefill_and_every_step(family: ZooEntry, kind: str) -> None:
    prompt = Prompt(family, [WIDE])
    recorder = Recorder(methods_for(family)[kind])
    with lftr.reduce(prompt.model, recorder) as reduction:
        output = prompt.generate()
    assert recorder.said
    assert_true(prompt, recorder, output)
    assert [layer.tokens for layer in reduction.report.layers][-1] < reduction.report.tokens


@pytest.mark.parametrize("kind", ["frozen", "bypassed"])
def test_tokens_at_rest(family: ZooEntry, kind: str) -> None:
    prompt = Prompt(family, [WIDE])
    recorder = Recorder(skips_for(family)[kind])
    try:
        with lftr.reduce(prompt.model, recorder):
            output = prompt.generate()
    except lftr.LftrError as error:
        assert kind == "frozen"
        assert "sliding window" in str(error)
        return
    assert_true(prompt, recorder, output)
