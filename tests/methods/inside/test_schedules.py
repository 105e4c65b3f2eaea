"""Schedules: counts and states of every layer, averages, and what they refuse."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import lftr
from lftr.methods.inside.schedules import Average, Exit, Linear, Logistic, Skip, Stages, Step

fast = settings(max_examples=30, deadline=None, derandomize=True)
SHAPES = [
    Step(),
    Step(layer=0.5, keep=3),
    Stages(),
    Stages(layers=(1, 2), keep=(0.9, 0.1)),
    Linear(),
    Linear(start=1, stop=1, end=0.3),
    Logistic(),
    Logistic(centre=2, slope=0.0),
    Exit(),
    Skip(every=3),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@fast
@given(st.integers(1, 700), st.integers(3, 40))
def test_counts_never_grow(shape, tokens, depth):
    counts = shape.counts(tokens, depth)
    assert len(counts) == len(shape.states(depth)) == depth
    assert counts[0] == tokens
    assert all(a >= b >= 0 for a, b in itertools.pairwise(counts))


@pytest.mark.parametrize(
    ("schedule", "tokens", "depth", "wanted"),
    [
        (Step(layer=2, keep=0.5), 9, 5, [9, 9, 5, 5, 5]),
        (Step(layer=2, keep=4), 9, 4, [9, 9, 4, 4]),
        (Step(layer=1, keep=20), 9, 3, [9, 9, 9]),
        (Stages(), 64, 8, [64, 64, 32, 32, 16, 16, 8, 8]),
        (Stages(), 64, 3, [64, 32, 8]),  # half and three quarters of three layers are one
        (Linear(start=2, stop=4, end=0.0), 9, 6, [9, 9, 6, 3, 0, 0]),
        (Linear(start=1, stop=2, end=0.5), 8, 4, [8, 6, 4, 4]),
        (Logistic(centre=2, slope=100.0), 10, 5, [10, 10, 5, 1, 1]),
        (Exit(3), 9, 5, [9, 9, 9, 0, 0]),
        (Exit(1.0), 9, 3, [9, 9, 9]),
        (Exit(3), 9, 3, [9, 9, 9]),
        (Average(Step(layer=1, keep=0.5), 4), 10, 4, [10, 2, 2, 2]),
        (Average(Linear(start=2, stop=4, end=0.0), 34 / 54), 9, 6, [9, 9, 9, 7, 0, 0]),
    ],
    ids=str,
)
def test_counts_by_hand(schedule, tokens, depth, wanted):
    assert schedule.counts(tokens, depth) == wanted


@pytest.mark.parametrize("shape", SHAPES[:8], ids=str)
@fast
@given(st.integers(20, 700), st.integers(8, 40), st.floats(0.0, 1.0))
def test_an_average_is_met_within_a_token(shape, tokens, depth, share):
    counts = shape.counts(tokens, depth)
    free = [count for count in counts if count < tokens]
    least = sum(tokens if c == tokens else bool(c) for c in counts) / depth
    most = sum(tokens if c else 0 for c in counts) / depth
    keep = min(least + share * (most - least), tokens)
    keep = max(1, int(keep) + 1 if int(keep) < least else int(keep))
    assume(keep <= most)
    found = Average(shape, keep).counts(tokens, depth)
    assert sum(found) <= keep * depth
    assert sum(found) > keep * depth - depth or not free
    assert all(a >= b for a, b in itertools.pairwise(found))
    assert [c == 0 for c in found] == [c == 0 for c in counts]


@pytest.mark.parametrize(
    ("schedule", "total"),
    [
        (Stages((2, 6, 15), keep=(309, 204, 113)), 192),
        (Stages((2, 6, 15), keep=(238, 108, 60)), 128),
        (Stages((2, 6, 15), keep=(66, 34, 20)), 64),
    ],
    ids=["sparsevlm", "sparsevlm-plus", "sparsevlm-plus-64"],
)
def test_published_tables_are_averages_of_their_budget(schedule, total):
    assert sum(schedule.counts(576, 32)) / 32 == pytest.approx(total, abs=0.5)


def test_published_defaults():
    def counts(name, tokens, depth):
        return lftr.get_method(name).schedule.counts(tokens, depth)

    assert counts("pyramiddrop", 576, 32)[::8] == [576, 288, 144, 72]
    assert [counts("sparsevlm", 576, 32)[i] for i in (1, 2, 6, 15)] == [576, 309, 204, 113]
    assert [counts("sparsevlm-plus", 576, 32)[i] for i in (1, 2, 6, 15)] == [576, 300, 200, 118]
    assert counts("aim-inside", 800, 28)[14:23] == [800, 700, 600, 500, 400, 300, 200, 100, 0]
    assert counts("dart-inside", 576, 32)[1:3] == [576, 128]
    assert counts("fastv", 576, 32)[1:3] == [576, 288]


def test_states():
    assert Skip(every=3).states(7) == ["active", "frozen", "frozen"] * 2 + ["active"]
    assert Skip("bypassed", layers=(1, 0.5)).states(4) == [
        "active",
        "bypassed",
        "bypassed",
        "active",
    ]
    assert Step().states(3) == ["active"] * 3
    assert Average(Step(), 0.5).states(2) == ["active"] * 2


@pytest.mark.parametrize(
    ("schedule", "counts"),
    [
        (Step(layer=4), (10, 4)),
        (Stages(layers=(1, 5), keep=(0.5, 0.2)), (10, 4)),
        (Stages(layers=(3, 1), keep=(0.5, 0.4)), (10, 4)),
        (Stages(layers=(1, 2), keep=(2, 0.5)), (10, 4)),
        (Linear(start=3, stop=0.25), (10, 8)),
        (Exit(5), (10, 4)),
        (Skip(layers=(9,)), None),
        (Average(Step(layer=3), 0.5), (10, 4)),
        (Average(Step(layer=2), 0.5), (10, 4)),
    ],
    ids=str,
)
def test_what_does_not_fit_a_model(schedule, counts):
    with pytest.raises(lftr.LftrError, match="allowed: "):
        schedule.counts(*counts) if counts else schedule.states(4)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: Step(layer=0), "layer = 0"),
        (lambda: Step(layer=1.0), "layer = 1.0"),
        (lambda: Step(layer=True), "layer = True"),
        (lambda: Step(keep=0.0), "keep = 0.0"),
        (lambda: Step(keep=lftr.Budget(3)), "keep = Budget"),
        (lambda: Stages(layers=(), keep=()), "keep = "),
        (lambda: Stages(layers=(1, 2), keep=(0.5,)), "keep = "),
        (lambda: Stages(layers=(1, 2), keep=(0.2, 0.5)), "does not grow"),
        (lambda: Linear(end=1.5), "end = 1.5"),
        (lambda: Logistic(slope=-1.0), "slope = -1.0"),
        (lambda: Exit(0), "layer = 0"),
        (lambda: Skip(), "layers = "),
        (lambda: Skip("active", every=2), "state = 'active'"),
        (lambda: Skip(every=2, layers=(1,)), "layers = "),
        (lambda: Average(Step(), -1), "keep = -1"),
        (lambda: Exit().averaging(5), "keep = 5"),
        (lambda: Skip(every=2).averaging(0.5), "keep = 0.5"),
    ],
)
def test_what_is_no_schedule(make, named):
    with pytest.raises(lftr.LftrError) as raised:
        make()
    assert named in str(raised.value)


def test_averages_of_schedules_that_know_their_own():
    assert Exit().averaging(0.25) == Exit(0.25)
    assert Skip(every=2).averaging(1.0) == Skip(every=2)
    assert Average(Step(), 0.5).averaging(0.25) == Average(Step(), 0.25)


def test_cuts_are_the_layers_that_have_fewer_tokens_than_the_one_before():
    stages = Stages(layers=(2, 4), keep=(0.5, 0.25))
    assert stages.cuts(6) == Average(stages, 0.6).cuts(6) == [2, 4]
    assert Linear(start=2, stop=4, end=0.0).cuts(8) == [2, 3, 4]
    assert Step(layer=3, keep=64).cuts(8) == Exit(3).cuts(8) == [3]
    assert Skip(every=2).cuts(8) == []
