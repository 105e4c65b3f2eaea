"""MiniMax M3's sparse layers take positions for columns: what the host does, and refuses."""

from __future__ import annotations

import pytest
from zoo import BROKEN, SPARSE, UNUSABLE, Image, Row

import lftr
from lftr.values.errors import UnsupportedModelError

from .support import Prompt, assert_true, reduced

several_images = pytest.mark.skipif(
    "minimax_m3_vl" in BROKEN, reason=UNUSABLE["minimax_m3_vl"].reason
)
ROW: Row = [3, Image("wide"), 4, Image("small", 1), 5]


def test_one_prompt_is_the_truth() -> None:
    prompt = Prompt(SPARSE, [ROW])
    with reduced(prompt.model, keep=0.6) as run:
        output = prompt.generate()
    assert run.reduction.host.plan.positions == "compact"
    assert run.report.received > 3 * 8  # more keys than the three blocks that a query sees
    assert_true(prompt, run, output, "compact")


@several_images
def test_rows_of_one_length() -> None:
    prompt = Prompt(SPARSE, [ROW, [5, Image("wide", 2), 3, Image("small", 3), 4]])
    with reduced(prompt.model, keep=0.6) as run:
        assert_true(prompt, run, prompt.generate(), "compact")


def test_padding_on_the_left_is_refused() -> None:
    prompt = Prompt(SPARSE, [ROW, [2, Image("square"), 3]])
    with (
        reduced(prompt.model, keep=0.6),
        pytest.raises(UnsupportedModelError, match="one prompt at a time"),
    ):
        prompt.generate(1)


@several_images
def test_padding_on_the_right_is_the_truth() -> None:
    prompt = Prompt(SPARSE, [ROW, [2, Image("square"), 3]])
    with reduced(prompt.model, keep=0.6) as run:
        logits = prompt.forward("right").logits
        mask = run.reduction.prepare(**prompt.inputs("right"))["attention_mask"]
    for row, length in enumerate(mask.sum(dim=1).tolist()):
        expected = prompt.truth(row, run.choices(row), positions="compact")[0]
        assert float((logits[row, length - 1] - expected).abs().max()) < 1e-4


def test_gaps_and_shorter_layers_are_refused() -> None:
    model = SPARSE.model()
    with pytest.raises(UnsupportedModelError, match="use 'compact'"):
        lftr.reduce(model, "random", keep=0.5, positions="original")
    with pytest.raises(UnsupportedModelError, match="indexer"):
        lftr.reduce(model, "fastv")
