"""Reduced equals the plain language model on the kept embeddings: prefill and every decode step."""

from __future__ import annotations

import pytest
import torch

import lftr
from lftr.values.errors import UnsupportedModelError

from .support import (
    ALL,
    FAMILIES,
    NEW,
    PLAIN,
    ROWS,
    SQUARE,
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
    skip_unasked,
)

PROMPTS: dict[str, list[Row]] = {
    "one image": [SQUARE],
    "two images": [WIDE],
    "three rows": ROWS,
    "images first": [[Image("tall"), 2, Image("small"), 1], [Image("wide", 3), 2]],
    "the other way round": [[2, Image("small", 1), 3, Image("tall"), 1, Image("wide", 5)]],
    "ends in an image": [[3, Image("wide")], [Image("tall"), 2, Image("small", 2)]],
    "text only": [[7], PLAIN],
}


@pytest.fixture(params=ALL, ids=str)
def entry(request: pytest.FixtureRequest) -> ZooEntry:
    """A family that is shown images, clips, or both."""
    value: ZooEntry = request.param
    return value


@pytest.mark.parametrize("positions", ["original", "compact"])
@pytest.mark.parametrize("rows", PROMPTS.values(), ids=PROMPTS)
def test_generate(entry: ZooEntry, rows: list[Row], positions: str) -> None:
    skip_unasked(entry, positions)
    prompt = Prompt(entry, rows)
    with reduced(prompt.model, positions=positions) as run:
        assert_true(prompt, run, prompt.generate(), positions)


@pytest.mark.every_family
@pytest.mark.parametrize("side", ["left", "right"])
def test_forward(entry: ZooEntry, side: str) -> None:
    prompt = Prompt(entry)
    with reduced(prompt.model) as run:
        mask = run.reduction.prepare(**prompt.inputs(side))["attention_mask"]
        logits = prompt.forward(side).logits
    assert logits.shape[1] == run.report.received < run.report.prompt
    found = last_columns(logits, mask)
    for row in range(len(prompt.rows)):
        assert_close(entry, found[row], prompt.truth(row, run.choices(row))[0])


def test_batch_is_single(entry: ZooEntry) -> None:
    """What a row keeps and answers does not depend on its neighbours."""
    prompt = Prompt(entry)
    with reduced(prompt.model) as run:
        together = prompt.generate()
        choices = [run.choices(row) for row in range(len(prompt.rows))]
        for row, expected in enumerate(choices):
            single = prompt.alone(row).generate()
            answers = single.sequences[0, -NEW:], together.sequences[row, -NEW:]
            for left, right in zip(run.choices() if expected else [], expected, strict=True):
                assert torch.equal(left.selection.index, right.selection.index)
            assert "batch" in entry.traits.upstream or torch.equal(*answers)


def test_controls(entry: ZooEntry) -> None:
    """A wrong position, a wrong choice or the full prompt are far from the truth."""
    prompt = Prompt(entry, [WIDE])
    with reduced(prompt.model) as run:
        truth = prompt.generate(1).logits[0][0]
        choices = run.choices()
    with reduced(prompt.model, positions="compact") as run:
        compact = prompt.generate(1).logits[0][0]
    with reduced(prompt.model, "uniform"):
        other = prompt.generate(1).logits[0][0]
    full = prompt.generate(1).logits[0][0]
    wrong = prompt.truth(0, choices, positions="compact")[0]
    for control in (other, full):
        assert distance(control, truth) > 5e-3
    placed = entry.traits.positions and not entry.traits.unplaced
    for moved in (compact, wrong):
        assert (distance(moved, truth) > 5e-3) == placed


@pytest.mark.parametrize("name", sorted(e.name for e in ALL if e.traits.unplaced))
def test_positions_that_a_model_does_not_ask_for(name: str) -> None:
    """Tokens cannot stay where they were in a model that sees their order alone."""
    model = FAMILIES[name].model()
    with pytest.raises(UnsupportedModelError, match=r"no positions; use 'compact'"):
        lftr.reduce(model, "random", keep=0.4, positions="original")
    with lftr.reduce(model, "random", keep=0.4) as reduction:
        assert reduction.host.plan.positions == "compact"
