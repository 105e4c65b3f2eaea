"""The values that everything else speaks: budgets, tokens, selections."""

from __future__ import annotations

import dataclasses
import math
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
import torch
from every import item
from hypothesis import given, settings
from hypothesis import strategies as st

import lftr
from lftr.values.budget import (
    as_arguments,
    budget_of,
    parse_keep,
    resolve,
    resolve_all,
    share,
    spell,
    stated,
)
from lftr.values.errors import ArgumentError, MissingEvidenceError
from lftr.values.indexing import take
from lftr.values.tokens import VisualTokens

counts = st.integers(1, 3000)
calm = settings(deadline=None, derandomize=True)


# Budgets


@pytest.mark.parametrize(
    ("keep", "size", "count"),
    [
        (1 / 16, 576, 36),
        (1 / 16, 577, 37),
        ("1/16", 576, 36),
        (" 0.25 ", 8, 2),
        ("64", 576, 64),
        (0.07, 100, 7),  # 0.07 * 100 is 7.000000000000001
        (0.07 * 100 / 100, 100, 7),
        (1 / 3, 576, 192),
        (0.29, 100, 29),
        (1e-9, 50, 1),
        (1.0, 50, 50),
        (1, 50, 1),
        (64, 50, 50),
        (np.int64(7), 50, 7),
        (np.float32(0.5), 50, 25),
        (np.float64(0.1), 50, 5),
        (lftr.Budget(total=9), 50, 9),
        (lftr.Budget(total=90), 50, 50),
    ],
)
def test_a_budget_resolves(keep, size, count):
    got = resolve(keep, size)
    assert got == count
    assert type(got) is int


@pytest.mark.parametrize(
    "keep",
    [
        *(0, -1, 0.0, -0.5, 1.5, math.nan, math.inf, True, False, None, np.float64(1.5)),
        *("", "x", "1/0", "1e999999999", "0", "-1", "3/2", "auto"),
        *([1], 1j, np.bool_(True), torch.tensor(3)),
    ],
)
def test_what_is_no_budget_is_refused(keep):
    with pytest.raises(lftr.LftrError, match=r"keep = .*allowed: a ratio") as caught:
        resolve(keep, 10)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("keep", "tokens", "budget"),
    [
        (None, None, None),
        ("auto", None, "auto"),
        (0.25, None, 0.25),
        (1.0, None, 1.0),
        ("1.0", None, 1.0),
        ("1/1", None, 1.0),
        ("64", None, 64),
        (lftr.Budget(9), None, lftr.Budget(9)),
        (None, 1, 1),
        (None, np.int64(7), 7),
    ],
)
@pytest.mark.filterwarnings("error::DeprecationWarning")
def test_keep_and_tokens_state_a_budget(keep, tokens, budget):
    got = budget_of(keep, tokens)
    assert got == budget
    assert type(got) is type(budget)
    assert budget_of(**as_arguments(got)) == got


@pytest.mark.parametrize("keep", [1, 64, np.int64(7), "1"])
def test_a_count_as_keep_is_deprecated(keep):
    with pytest.warns(DeprecationWarning, match=f"write tokens={keep} "):
        assert budget_of(keep) == int(keep)


def test_budgets_are_written():
    assert [spell(one) for one in (1 / 16, 1.0, 64)] == ["1/16", "1/1", "64"]
    assert [stated(one) for one in (1 / 3, 64, "auto")] == [
        "keep=0.333333",
        "tokens=64",
        "keep=auto",
    ]


def test_auto_is_refused_with_its_reason():
    with pytest.raises(ArgumentError, match=r"Method\.select alone"):
        resolve_all("auto", [10, 20])


@pytest.mark.parametrize("total", [0, -3, 2.0, True, "4", None])
def test_what_is_no_total_is_refused(total):
    with pytest.raises(ArgumentError, match=r"Budget\.total"):
        lftr.Budget(total=total)


def test_parsing_gives_plain_numbers():
    assert type(parse_keep(np.int32(3))) is int
    assert type(parse_keep(np.float32(0.5))) is float
    assert parse_keep(lftr.Budget(3)) == lftr.Budget(3)


@calm
@given(st.integers(1, 2000), st.integers(1, 2000), counts)
def test_a_ratio_rounds_up_exactly(numerator, denominator, size):
    ratio = Fraction(min(numerator, denominator), denominator)
    assert resolve(float(ratio), size) == max(1, math.ceil(size * ratio))
    assert resolve(str(ratio), size) == (
        resolve(1, size) if ratio == 1 else resolve(float(ratio), size)
    )


@calm
@given(st.lists(counts, min_size=1, max_size=8), st.data())
def test_a_total_is_shared_exactly(sizes, data):
    total = data.draw(st.integers(len(sizes), sum(sizes) + 10))
    given_ = resolve_all(lftr.Budget(total), sizes)
    assert sum(given_) == min(total, sum(sizes))
    assert all(1 <= g <= size for g, size in zip(given_, sizes, strict=True))
    for g, size in zip(given_, sizes, strict=True):  # as near to proportion as the floor of 1 lets
        fair = min(total, sum(sizes)) * size / sum(sizes)
        assert abs(g - fair) < 1 + len(sizes)
    order = sorted(range(len(sizes)), key=lambda i: sizes[i])
    assert all(given_[a] <= given_[b] + 1 for a, b in pairwise(order))


@calm
@given(
    st.lists(st.tuples(st.floats(0, 1e6), st.integers(1, 50)), min_size=1, max_size=6), st.data()
)
def test_any_claims_are_shared_within_limits(items, data):
    weights, limits = zip(*items, strict=True)
    total = data.draw(st.integers(len(items), sum(limits)))
    given_ = share(total, weights, limits)
    assert sum(given_) == total
    assert all(1 <= g <= limit for g, limit in zip(given_, limits, strict=True))


def test_shares_follow_claims():
    assert share(12, [3, 2, 1], [100] * 3) == [6, 4, 2]
    assert share(12, [0, 0, 0], [100] * 3) == [4, 4, 4]
    assert share(7, [1, 1, 1], [100] * 3) == [3, 2, 2]  # the earlier takes what is left over
    assert share(12, [10, 1, 1], [4, 100, 100]) == [4, 4, 4]
    assert resolve_all(0.5, [10, 11]) == [5, 6]
    assert resolve_all(4, [10, 3]) == [4, 3]
    with pytest.raises(ArgumentError, match="3 items"):
        resolve_all(lftr.Budget(2), [5, 5, 5])


# Visual tokens


@pytest.mark.parametrize(
    "fields",
    [
        {"features": torch.zeros(4)},
        {"features": torch.zeros(0, 3)},
        {"features": [[1.0]]},
        {"features": torch.zeros(4, 3), "grid": (1, 2, 3)},
        {"features": torch.zeros(4, 3), "grid": (2, 2)},
        {"features": torch.zeros(4, 3), "grid": (1, 2, 2), "tiles": ((1, 2, 2),)},
        {"features": torch.zeros(4, 3), "tiles": ((1, 2, 2), (1, 1, 1))},
        {"features": torch.zeros(4, 3), "separator": torch.zeros(3, dtype=torch.bool)},
        {"features": torch.zeros(4, 3), "cls_attention": torch.zeros(4)},
        {"features": torch.zeros(4, 3), "cls_attention": torch.zeros(2, 5)},
        {"features": torch.zeros(4, 3), "attention": torch.zeros(2, 4, 5)},
        {"features": torch.zeros(4, 3), "attention_received": torch.zeros(1, 4)},
        {"features": torch.zeros(4, 3), "attention_received_shallow": torch.zeros(5)},
        {"features": torch.zeros(4, 3), "text_token_embeds": torch.zeros(2, 4)},
        {"features": torch.zeros(2, 4, 3), "keys": torch.zeros(4, 3)},
        {"features": torch.zeros(2, 4, 3), "keys": torch.zeros(3, 4, 3)},
        {
            "features": torch.zeros(4, 3),
            "visual_projected": torch.zeros(4, 5),
            "text_embeds": torch.zeros(1, 6),
        },
    ],
)
def test_what_does_not_agree_is_refused(fields):
    with pytest.raises(ArgumentError, match="allowed"):
        VisualTokens(**fields)


def test_tokens_stack_and_come_back():
    items = [item(seed, (1, 2, 3)) for seed in range(3)]
    stack = VisualTokens.stack(items)
    assert stack.batched
    assert not items[0].batched
    assert stack.count == items[0].count == 6
    assert stack.as_batch() is stack
    for i, one in enumerate(items):
        back = stack.item(i)
        assert back.grid == (1, 2, 3)
        for field in dataclasses.fields(VisualTokens):
            value = getattr(one, field.name)
            if isinstance(value, torch.Tensor):
                assert getattr(back, field.name).equal(value)
                assert getattr(one.as_batch(), field.name).equal(value[None])
    assert items[0].layout == items[1].layout != item(0, (1, 3, 2)).layout


def test_coordinates():
    video = VisualTokens(torch.zeros(12, 1), grid=(2, 2, 3))
    wanted = [[t, h, w] for t in range(2) for h in range(2) for w in range(3)]
    assert video.coordinates.tolist() == wanted
    tiled = VisualTokens(torch.zeros(5, 1), tiles=((1, 2, 2), (1, 1, 1)))
    assert tiled.coordinates.tolist() == [[0, 0, 0], [0, 0, 1], [0, 1, 0], [0, 1, 1], [1, 0, 0]]
    assert tiled.blocks == ((1, 2, 2), (1, 1, 1))
    line = VisualTokens(torch.zeros(3, 1))
    assert line.coordinates.tolist() == [[0, 0, 0], [0, 0, 1], [0, 0, 2]]
    taken = video.take(torch.tensor([7, 2]))
    assert taken.coordinates.tolist() == [wanted[7], wanted[2]]
    assert taken.grid is None


def test_changed_coordinates_spoil_no_later_ones():
    tokens = item(1, (1, 3, 4))
    before = tokens.coordinates.clone()
    tokens.coordinates.add_(100)
    assert item(2, (1, 3, 4)).coordinates.equal(before)


def test_taking_tokens_takes_their_evidence():
    tokens, index = item(0, (1, 2, 3)), torch.tensor([4, 0, 5])
    taken = tokens.take(index)
    assert taken.features.equal(tokens.features[index])
    assert taken.cls_attention.equal(tokens.cls_attention[:, index])
    assert taken.attention.equal(tokens.attention[:, index][:, :, index])
    assert taken.attention_received.equal(tokens.attention_received[index])
    assert taken.text_embeds.equal(tokens.text_embeds)
    stack = VisualTokens.stack([tokens, item(1, (1, 2, 3))])
    rows = torch.tensor([[1, 2], [5, 3]])
    some = stack.take(rows)
    assert some.attention[1].equal(stack.attention[1][:, rows[1]][:, :, rows[1]])
    assert some.keys[0].equal(stack.keys[0][rows[0]])


def test_separators_are_set_aside():
    mark = torch.tensor([False, False, True, False, False, True])
    features = torch.arange(6.0)[:, None]
    tokens = VisualTokens(features, grid=(1, 2, 2), separator=mark)
    bare = tokens.without_separators()
    assert bare.features.flatten().tolist() == [0, 1, 3, 4]
    assert bare.grid == (1, 2, 2)
    assert bare.separator is None
    assert bare.coordinates.tolist() == [[0, 0, 0], [0, 0, 1], [0, 1, 0], [0, 1, 1]]
    assert bare.without_separators() is bare
    assert tokens.take(torch.tensor([1, 4])).coordinates.tolist() == [[0, 0, 1], [0, 1, 1]]


def test_tokens_of_no_grid_are_a_line_without_its_separators():
    mark = torch.tensor([False, False, True, False])
    tokens = VisualTokens(torch.arange(4.0)[:, None], separator=mark)
    assert tokens.blocks == ((1, 1, 3),)
    assert tokens.take(torch.tensor([1, 3])).coordinates.tolist() == [[0, 0, 1], [0, 0, 2]]


def test_evidence_is_the_first_there_is():
    tokens = VisualTokens(torch.zeros(2, 1), attention_received=torch.ones(2))
    name, value = tokens.evidence("cls_attention", "attention_received")
    assert name == "attention_received"
    assert value is tokens.attention_received
    with pytest.raises(MissingEvidenceError, match=r"cls_attention or keys \(.*CLIP"):
        tokens.evidence("cls_attention", "keys")


def test_tokens_are_immutable():
    with pytest.raises(dataclasses.FrozenInstanceError):
        item(0, (1, 1, 2)).grid = None


# Selections


@pytest.mark.parametrize(
    "index", [[], [0, 0], [1, -1], [0.0, 1.0], [True, False], [[[0]]], 3, [[0, 1], [2, 2]]]
)
def test_what_is_no_choice_is_refused(index):
    with pytest.raises(ArgumentError, match="index"):
        lftr.Selection(torch.tensor(index))


def test_a_choice_is_in_raster_order_and_immutable():
    chosen = lftr.Selection([5, 1, 3])
    assert chosen.index.tolist() == [1, 3, 5]
    assert chosen.count == 3
    assert not chosen.batched
    with pytest.raises(dataclasses.FrozenInstanceError):
        chosen.index = None
    stack = lftr.Selection(torch.tensor([[2, 0], [1, 3]]))
    assert stack.index.tolist() == [[0, 2], [1, 3]]
    assert stack.batched
    assert stack.item(1).index.tolist() == [1, 3]


def test_the_highest_scores_of_each_row():
    """Ties of one row and NaN of another do not cancel out in the number of high scores."""
    scores = torch.tensor([[5.0, 4.0, 4.0, 1.0], [torch.nan, 3.0, 2.0, 1.0]])
    chosen = lftr.Selection.top(scores, 2)
    assert chosen.index.tolist() == [[0, 1], [0, 1]]


def test_slots_follow_their_anchors_into_order():
    flow = lftr.Flow(torch.tensor([5, 0, 1, 2]), torch.tensor([0, 0, 1, 1]), torch.ones(4) / 2)
    chosen = lftr.Selection([5, 1], flow)  # slot 0 is anchored at 5, and becomes the second
    x = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0, 32.0])
    assert chosen.index.tolist() == [1, 5]
    assert chosen.apply(x).tolist() == [3.0, 16.5]
    assert chosen.assignment(6).tolist() == [1, 0, 0, -1, -1, 1]
    assert chosen.apply(torch.arange(6)).tolist() == [1, 5]  # whole numbers never mix
    assert chosen.apply(x.bfloat16()).dtype == torch.bfloat16


def test_application_along_any_dimension():
    flow = lftr.Flow(torch.tensor([0, 1, 2]), torch.tensor([0, 0, 1]), torch.tensor([0.5, 0.5, 1]))
    for chosen in (lftr.Selection([0, 2]), lftr.Selection([0, 2], flow)):
        x = torch.randn(4, 3, 2)
        assert chosen.apply(x, dim=1).equal(chosen.apply(x.movedim(1, 0)).movedim(0, 1))
        assert chosen.apply(x, dim=-2).equal(chosen.apply(x, dim=1))
    stack = lftr.Selection(torch.tensor([[0, 2], [1, 2]]))
    x = torch.randn(2, 3, 4)
    assert stack.apply(x).equal(torch.stack([x[0, [0, 2]], x[1, [1, 2]]]))
    y = torch.randn(2, 5, 3)
    assert stack.apply(y, dim=2).equal(torch.stack([y[0][:, [0, 2]], y[1][:, [1, 2]]]))


def test_half_precision_sums_in_float32():
    weight = torch.full((4096,), 1 / 4096)
    flow = lftr.Flow(torch.arange(4096), torch.zeros(4096, dtype=torch.int64), weight)
    merged = lftr.Selection([0], flow).apply(torch.ones(4096, 1, dtype=torch.float16))
    assert merged.item() == 1.0  # in float16 the sum would stop growing long before


def test_positions_are_the_anchors():
    chosen = lftr.Selection([1, 3])
    assert chosen.positions().tolist() == [1, 3]
    assert chosen.positions(torch.tensor([10, 11, 12, 13])).tolist() == [11, 13]
    mrope = torch.arange(12).reshape(3, 4)
    assert chosen.positions(mrope).tolist() == [[1, 3], [5, 7], [9, 11]]
    stack = lftr.Selection(torch.tensor([[0, 1], [2, 3]]))
    assert stack.positions(torch.arange(8).reshape(2, 4)).tolist() == [[0, 1], [6, 7]]
    planes = torch.arange(24).reshape(3, 2, 4)
    assert stack.positions(planes)[2].tolist() == [[16, 17], [22, 23]]


def test_assignment_is_to_the_strongest_slot():
    flow = lftr.Flow(
        torch.tensor([0, 1, 1, 2, 3]),
        torch.tensor([0, 0, 1, 1, 1]),
        torch.tensor([1.0, 0.7, 0.3, 0.7, 0.0]),
    )
    chosen = lftr.Selection([0, 2], flow)
    assert chosen.assignment(5).tolist() == [0, 0, 1, -1, -1]
    assert lftr.Selection([0, 2]).assignment(4).tolist() == [0, -1, 1, -1]


def test_a_choice_among_some_is_one_among_all():
    flow = lftr.Flow(torch.tensor([0, 1, 2]), torch.tensor([0, 1, 1]), torch.tensor([1, 0.5, 0.5]))
    inner = lftr.Selection([0, 2], flow, ("said",))
    among = torch.tensor([1, 4, 6])
    outer = inner.through(among)
    x = torch.randn(8, 3)
    assert outer.index.tolist() == [1, 6]
    assert outer.notes == ("said",)
    assert outer.apply(x).equal(inner.apply(x[among]))
    stack = lftr.Selection(torch.tensor([[0, 2], [1, 2]]))
    rows = torch.tensor([[1, 4, 6], [0, 2, 3]])
    assert stack.through(rows).index.tolist() == [[1, 6], [2, 3]]


def test_everything_and_the_top():
    assert lftr.Selection.everything(3).index.tolist() == [0, 1, 2]
    assert lftr.Selection.everything(2, batch=2).index.tolist() == [[0, 1], [0, 1]]
    top = lftr.Selection.top(torch.tensor([1.0, 3.0, 3.0, 3.0, 0.0]), 2, ["why"])
    assert top.index.tolist() == [1, 2]  # ties to the earlier
    assert top.notes == ("why",)
    even = (torch.arange(5000) % 7 == 3).float()
    assert lftr.Selection.top(even, 4).index.tolist() == [3, 10, 17, 24]
    assert lftr.Selection.top(1 - even, 4).index.tolist() == [0, 1, 2, 4]
    assert lftr.Selection.top(torch.tensor([[1.0, 2.0], [2.0, 1.0]]), 1).index.tolist() == [
        [1],
        [0],
    ]


@calm
@given(st.integers(1, 40), st.integers(0, 1000), st.data())
def test_pruning_is_indexing(total, seed, data):
    keep = data.draw(st.integers(1, total))
    index = torch.randperm(total, generator=torch.Generator().manual_seed(seed))[:keep]
    x = torch.randn(total, 3, generator=torch.Generator().manual_seed(seed))
    assert lftr.Selection(index).apply(x).equal(x[index.sort().values])


def test_the_table_of_evidence_names_every_tensor_of_the_tokens():
    fields = {field.name for field in dataclasses.fields(VisualTokens)}
    assert fields - set(lftr.values.evidence.FIELDS) == {
        "grid",
        "tiles",
        "separator",
        "_coordinates",
    }


def test_one_item_is_taken_from_by_several_rows():
    x, index = torch.randn(1, 5, 3), torch.tensor([[0, 2], [1, 4]])
    assert take(x, index, 1).equal(
        x.expand(2, -1, -1).gather(1, index[..., None].expand(-1, -1, 3))
    )
    assert take(x, index[:1], 1).equal(x[:, [0, 2]])
