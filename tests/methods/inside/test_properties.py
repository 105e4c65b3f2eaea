"""What must hold of every layer method, for any prompt; new ones are found by themselves."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import lftr
from lftr.methods.inside.base import Heads, LayerMethod
from lftr.methods.inside.schedules import Average, Step

from .views import build, changed, choosers, descend, inside, look, ready, view

each = pytest.mark.parametrize("name", inside())
chooser = pytest.mark.parametrize("name", choosers())
fast = settings(max_examples=15, deadline=None, derandomize=True)
OWN_COUNTS = {"autoprune", "dyvte"}  # by what they see, not by the schedule alone
seeds = st.integers(0, 10_000)


def well_formed(chosen, seen, keep):
    total = len(seen.visual)
    assert chosen.index.shape == (keep,)
    assert (chosen.index[1:] > chosen.index[:-1]).all()
    assert chosen.index[0] >= 0
    assert chosen.index[-1] < total
    states = chosen.apply(seen.states[seen.visual])
    assert states.shape == (keep, seen.states.shape[1])
    assert states.dtype == seen.states.dtype
    assert states.isfinite().all()
    if chosen.flow is not None:
        assert set(chosen.flow.slot[chosen.flow.weight != 0].tolist()) == set(range(keep))
        sums = torch.zeros(keep).scatter_add(0, chosen.flow.slot, chosen.flow.weight.float())
        torch.testing.assert_close(sums, torch.ones(keep))


def same(one, other, x):
    assert one.index.equal(other.index)
    assert torch.equal(one.apply(x), other.apply(x))


@each
def test_registered(name):
    method = lftr.get_method(name)
    assert isinstance(method, LayerMethod)
    assert getattr(lftr.methods, type(method).__name__) is type(method)
    assert str(method) == name
    assert method == lftr.get_method(name)


@chooser
@pytest.mark.parametrize("shape", [(25, 5), (9, 1), (7, 0), (40, 12)], ids=str)
def test_every_count_is_exact(name, shape):
    visual, text = shape
    seen = view(1, visual, text)
    method = ready(name, seen)
    for keep in range(1, visual):
        well_formed(method.select(seen, keep), seen, keep)


@chooser
@fast
@given(seeds, st.integers(2, 60), st.integers(0, 8), st.integers(0, 4), st.floats(0.0, 0.99))
def test_any_prompt(name, seed, visual, text, before, share):
    seen = view(seed, visual, text, before)
    keep = max(1, int(visual * share))
    chosen = ready(name, seen).select(seen, keep)
    well_formed(chosen, seen, keep)
    again = dataclasses.replace(seen, memory={})
    torch.manual_seed(seed)  # nothing is drawn from the global generator
    same(ready(name, again).select(again, keep), chosen, seen.states[seen.visual])


@chooser
def test_choices_differ_from_prompt_to_prompt(name):
    found = set()
    for seed in range(6):
        seen = view(seed)
        found.add(tuple(ready(name, seen).select(seen, 6).index.tolist()))
    assert len(found) == 6


@chooser
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_decides_as_float32(name, dtype):
    for seed in range(4):
        half = changed(view(seed), lambda x: x.to(dtype))
        wide = changed(half, lambda x: x.float())
        chosen = ready(name, half).select(half, 7)
        well_formed(chosen, half, 7)
        assert chosen.index.equal(ready(name, wide).select(wide, 7).index)


@chooser
@pytest.mark.parametrize("kind", ["constant", "zero", "huge", "two of a kind"])
def test_degenerate_prompts(name, kind):
    change = {
        "constant": torch.ones_like,
        "zero": torch.zeros_like,
        "huge": lambda x: x * 1e4,
        "two of a kind": lambda x: x[..., torch.arange(x.shape[-2]) % 2, :],
    }[kind]
    for visual in (2, 3, 24):
        seen = changed(view(3, visual), change)
        method = ready(name, seen)
        for keep in {1, visual // 2, visual - 1}:
            chosen = method.select(seen, keep)
            well_formed(chosen, seen, keep)
            same(method.select(seen, keep), chosen, seen.states[seen.visual])


@chooser
def test_earlier_turns_are_looked_at_and_never_chosen(name):
    seen = view(4)
    method = ready(name, seen)
    size, drawn = seen.heads.keys.shape[2], torch.Generator().manual_seed(4)
    before = torch.randn(len(seen.heads.keys), 6, size, generator=drawn)
    keys = torch.cat([before, seen.heads.keys], dim=1)
    later = dataclasses.replace(seen, heads=dataclasses.replace(seen.heads, keys=keys))
    assert later.heads.offset == 6
    well_formed(method.select(later, 7), later, 7)
    if method.reads != "nothing":  # keys that nobody looks at change nothing
        mask = torch.ones(len(seen.states), keys.shape[1], dtype=torch.bool).tril(6)
        mask[:, :6] = False
        blind = dataclasses.replace(later, heads=dataclasses.replace(later.heads, mask=mask))
        assert method.select(blind, 7).index.equal(method.select(seen, 7).index)


@chooser
def test_attention_that_was_not_asked_for_plays_no_part(name):
    seen = view(5)
    method = ready(name, seen)
    if method.reads == "nothing":
        blind = dataclasses.replace(seen, heads=None)
        assert method.select(blind, 7).index.equal(method.select(seen, 7).index)
    else:
        with pytest.raises(lftr.LftrError, match="reads attention, but none is available"):
            method.select(dataclasses.replace(seen, heads=None), 7)


@each
@pytest.mark.parametrize("depth", [3, 7, 32])
def test_a_descent_follows_the_schedule(name, depth):
    method = build(name, depth)
    plan = method.schedule.counts(30, depth)
    left = descend(method, depth=depth)
    assert left[0] == 30
    assert all(b <= a for a, b in itertools.pairwise(left))
    if name in OWN_COUNTS:
        assert sum(left) <= sum(plan)
    else:
        assert left == plan


@chooser
@pytest.mark.parametrize("keep", [0.6, 18])
def test_an_average_is_met_within_one_token(name, keep):
    method = lftr.get_method(name).averaging(keep)
    assert isinstance(method.schedule, Average)
    left = descend(method, depth=32)
    assert 17 * 32 < sum(left) <= 18 * 32


@chooser
def test_memory_is_the_prompts_own(name):
    one, other = view(6), view(7)
    alone = ready(name, other).select(other, 7)
    other = dataclasses.replace(other, memory={})
    method = ready(name, one)
    method.select(one, 7)
    look(method, other)
    assert method.select(other, 7).index.equal(alone.index)


@chooser
def test_blocks_of_rows_are_one_map(name, monkeypatch):
    """Long prompts are worked on a few rows at a time, with the same choice."""
    seen = view(8, text=9)
    chosen = ready(name, seen).select(seen, 7)
    monkeypatch.setattr("lftr.methods.inside.base.BLOCK", 300)
    monkeypatch.setattr("lftr.methods.inside.aim.BLOCK", 300)
    again = dataclasses.replace(seen, memory={})
    assert ready(name, again).select(again, 7).index.equal(chosen.index)


def test_grouped_keys_are_repeated_ones():
    seen = view(9)
    keys = seen.heads.keys.repeat_interleave(2, dim=0)
    whole = Heads(seen.heads.queries, keys, seen.heads.scale)
    rows = torch.tensor([3, 27])
    attention = seen.heads.attention(rows)
    torch.testing.assert_close(whole.attention(rows), attention)
    parts = torch.cat([head.attention(rows) for head in seen.heads.split(3)])
    torch.testing.assert_close(parts, attention)
    assert (attention[:, 0, :4] > 0).all()
    assert (attention[:, 0, 4:] == 0).all()  # what comes later is not looked at


def test_masks_of_either_kind_and_softcaps():
    seen = view(10)
    length = len(seen.states)
    visible = torch.ones(length, length, dtype=torch.bool).tril()
    added = torch.zeros(length, length).masked_fill(~visible, torch.finfo(torch.float32).min)
    rows = torch.arange(length)
    plain = seen.heads.attention(rows)
    for mask in (visible, added):
        masked = dataclasses.replace(seen.heads, mask=mask)
        torch.testing.assert_close(masked.attention(rows), plain)
    everything = dataclasses.replace(seen.heads, mask=torch.ones_like(visible))
    assert (everything.attention(rows)[:, 0, 1:] > 0).all()
    capped = dataclasses.replace(everything, softcap=0.5)
    assert capped.logits(rows).abs().max() <= 0.5


def test_logits_of_no_rows():
    heads = view(10).heads
    assert heads.logits(torch.arange(0)).shape == (len(heads.queries), 0, heads.keys.shape[1])


@pytest.mark.parametrize("name", sorted(set(inside()) - set(choosers())))
def test_what_never_chooses_takes_no_schedule_that_asks_for_it(name):
    with pytest.raises(lftr.LftrError, match=r"schedule = Step.*allowed: a lftr\.schedules\."):
        lftr.get_method(name, schedule=Step())


@each
def test_a_schedule_is_asked_for(name):
    with pytest.raises(lftr.LftrError, match=r"schedule = 2; allowed: a lftr\.schedules\."):
        lftr.get_method(name, schedule=2)


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("aim-inside", "temperature", 0.0),
        ("aim-inside", "iterations", 0),
        ("autoprune", "gamma", -1.0),
        ("autoprune", "centre", 1.5),
        ("autoprune", "recycle", 2.0),
        ("dart-inside", "pivots", 0),
        ("dart-inside", "text_pivots", -1),
        ("greedyprune", "threshold", 1.5),
        ("sparsevlm", "recycle", -0.1),
        ("sparsevlm-plus", "heads", 0),
        ("sparsevlm-plus", "heads", 1.5),
    ],
)
def test_options_out_of_range(name, option, value):
    with pytest.raises(lftr.LftrError, match=f"{option} = "):
        lftr.get_method(name, **{option: value})


@pytest.mark.parametrize("name", [name for name in choosers() if name != "ivc-prune"])
def test_coordinates_beside_any_method(name):
    seen = view(2, visual=40, text=5)
    method = lftr.methods.Coordinates(name, share=0.1)
    look(method, seen)
    inner = ready(name, view(2, visual=40, text=5))
    for keep in (1, 3, 8, 20, 39):
        chosen = method.select(seen, keep)
        well_formed(chosen, seen, keep)
        marks = set()
        for table in seen.rotary:
            means = table[seen.visual].mean(dim=1)
            marks |= set(means.topk(min(4, keep // 4)).indices.tolist())
        assert marks <= set(chosen.index.tolist())
    assert lftr.methods.Coordinates(name, share=0.0).method == inner


def test_coordinates_have_the_choice_of_the_others_from_the_method():
    seen = view(5, visual=40, text=5)
    chosen = lftr.methods.Coordinates("fastv", share=0.1).select(seen, 12).index.tolist()
    scores = seen.received(seen.last)
    marks = set()
    for table in seen.rotary:
        marks |= set(table[seen.visual].mean(dim=1).topk(3).indices.tolist())
    rest = sorted(set(range(40)) - marks, key=lambda i: -float(scores[i]))
    assert chosen == sorted([*marks, *rest[: 12 - len(marks)]])


def test_coordinates_are_as_the_method_that_they_are_beside():
    method = lftr.methods.Coordinates("transprune", share=0.05)
    inner = lftr.get_method("transprune")
    assert (method.reads, method.follows, method.merges) == ("own text", True, False)
    assert method.watches(32) == inner.watches(32)
    assert method.averaging(0.5).schedule == inner.averaging(0.5).schedule
    with pytest.raises(lftr.LftrError, match="this method decides before the language model"):
        lftr.methods.Coordinates("random")
    with pytest.raises(lftr.LftrError, match="share"):
        lftr.methods.Coordinates("fastv", share=2.0)


@pytest.mark.parametrize("name", choosers())
def test_merge_inside_keeps_what_the_method_keeps_and_loses_no_token(name):
    seen = view(2, visual=40, text=5)
    method = lftr.methods.MergeInside(name)
    look(method, seen)
    for keep in (1, 3, 8, 20, 39):
        kept = method.method.select(seen, keep)
        chosen = method.select(seen, keep)
        well_formed(chosen, seen, keep)
        assert chosen.index.equal(kept.index)
        assert float(chosen.weight.sum()) == pytest.approx(40)
    assert method.merges


def test_merge_inside_averages_the_states_that_are_most_alike():
    seen = view(5, visual=40, text=5)
    chosen = lftr.methods.MergeInside("fastv").select(seen, 6)
    states = seen.states[seen.visual]
    unit = states / states.norm(dim=-1, keepdim=True)
    slots = (unit @ unit[chosen.index].T).argmax(dim=-1)
    slots[chosen.index] = torch.arange(6)
    means = torch.stack([states[slots == k].mean(dim=0) for k in range(6)])
    torch.testing.assert_close(chosen.apply(states), means)
    assert chosen.weight.tolist() == torch.bincount(slots, minlength=6).tolist()
