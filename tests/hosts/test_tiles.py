"""Images that are cut into tiles: an item is the image that the user gave."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from zoo import FAMILIES, Image, ZooEntry

import lftr

from .support import Prompt, assert_true, conversation, reduced

TILED = [
    FAMILIES[name]
    for name in ("idefics3", "smolvlm", "aya_vision", "cohere2_vision", "llama4", "internvl")
    if name in FAMILIES
]
ROWS = [
    [3, Image("wide"), Image("tall", 3), Image("small", 1), Image("small", 4), Image("wide", 7), 5],
    [6],
    [2, Image("square", 2), 1, Image("wide"), Image("square", 5)],
]


@pytest.fixture(params=TILED, ids=str)
def tiled(request: Any) -> ZooEntry:
    entry: ZooEntry = request.param
    return entry


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_count_is_of_an_image(tiled: ZooEntry, side: Any) -> None:
    """Next to each other or with words between, of one tile or of several."""
    prompt = Prompt(tiled, ROWS)
    with lftr.reduce(prompt.model, "uniform", tokens=4) as reduction:
        short = lftr.prepare(prompt.model, **prompt.inputs(side))
    sizes = [tiled.row_counts(prompt.model, row) for row in prompt.rows]
    found = [(item.row, item.number, item.tokens, item.kept) for item in reduction.report.items]
    assert found == [
        (row, number, size, 4) for row, own in enumerate(sizes) for number, size in enumerate(own)
    ]
    assert int(prompt.visual(short["input_ids"]).sum()) == 4 * len(found)


def test_a_method_sees_the_tiles_of_an_image(tiled: ZooEntry) -> None:
    prompt = Prompt(tiled, [ROWS[2]])
    with reduced(prompt.model, "lftr", 0.25) as run:
        output = prompt.generate()
    tiles = [tokens.blocks for tokens in run.method.tokens]
    assert tiles == [item.grids for item in run.report.items]
    assert [len(grids) for grids in tiles] == [5, 3, 5]
    assert_true(prompt, run, output)


def test_a_later_turn_brings_another_image(tiled: ZooEntry) -> None:
    """Told in full or by its new ids alone, the second image is one item."""
    model, first, second = tiled.model(), Image("square", 2), Image("wide")
    ids = tiled.row_ids(model, [2, first, 4])
    more = tiled.row_ids(model, [2, second, 3])[1:]
    options = {"max_new_tokens": 2, "do_sample": False, "return_dict_in_generate": True}
    with lftr.reduce(model, "uniform", tokens=4) as reduction, torch.no_grad():
        begun = model.generate(**conversation(tiled, model, ids, [first]), **options)
        cache = {"past_key_values": begun.past_key_values}
        whole = [*begun.sequences[0].tolist(), *more]
        output = model.generate(
            **conversation(tiled, model, whole, [first, second]), **cache, **options
        )
        kept = [(item.tokens, item.kept) for item in reduction.report.items]
        assert kept[-1] == (tiled.counts(model, second), 4)
        again = model.generate(**conversation(tiled, model, whole, [first, second]), **options)
        assert torch.equal(output.sequences, again.sequences)


def test_prompts_without_marks_have_an_item_a_run(tiled: ZooEntry) -> None:
    """Words between two runs: nothing says that they are of one image."""
    if tiled.name == "internvl":
        pytest.skip("its tiles stand in one run")
    model = tiled.model()
    token = tiled.image_token_id(model)
    words = [20, 21, 22, 23, 24]
    ids = [1, *words, *[token] * 16, *words, *[token] * 16, *words]
    inputs = conversation(tiled, model, ids, [Image("small"), Image("small", 1)])
    with lftr.reduce(model, "uniform", tokens=4) as reduction:
        lftr.prepare(model, **inputs)
    assert [item.kept for item in reduction.report.items] == [4, 4]


@pytest.mark.parametrize("name", ["llava_next", "llava_onevision"])
def test_budgets_of_tiles_come_from_the_thumbnail(name: str) -> None:
    """The layout of these families is one that the wrapper knows, and the answers are exact."""
    prompt = Prompt(FAMILIES[name], [[3, Image("wide"), 4]])
    method = lftr.methods.PerTile("divprune", temperature=0.1)
    with reduced(prompt.model, method, 0.5) as run:
        output = prompt.generate()
    (tokens,), (item,) = run.method.tokens, run.report.items
    (_, side, wide), stitched = tokens.blocks
    assert side == wide < max(stitched)
    assert not any("no thumbnail" in note for note in item.notes)
    assert_true(prompt, run, output)
