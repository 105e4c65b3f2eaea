"""What makes each layer method what it is, on prompts made for it."""

from __future__ import annotations

import dataclasses

import pytest
import torch

import lftr
from lftr.methods import (
    AIMInside,
    AutoPrune,
    DartInside,
    FastV,
    GreedyPrune,
    PyramidDrop,
    SparseVLM,
    SparseVLMPlus,
)
from lftr.methods.inside.autoprune import mutual_information
from lftr.methods.inside.schedules import Logistic, Step
from lftr.methods.inside.text_raters import raters
from lftr.methods.operations.recycling import clusters_of, recycled

from .views import attending, heads_of, view


def looked_at(seen, attention):
    """Return the view with given attention ``(H, M, N)`` of its text to its visual tokens."""
    heads = attending(attention, len(seen.states), seen.text, seen.visual)
    return dataclasses.replace(seen, heads=heads, memory={})


def test_fastv_and_pyramiddrop_follow_the_last_token_alone():
    seen = view(0, visual=6, text=3)
    attention = torch.full((2, 3, 6), 0.1)
    attention[:, :2, 4:] = 0.3  # words before the last
    attention[0, 2] = torch.tensor([0.0, 0.4, 0.0, 0.3, 0.0, 0.0])
    attention[1, 2] = torch.tensor([0.3, 0.0, 0.0, 0.3, 0.0, 0.0])
    for method in (FastV(), PyramidDrop()):
        chosen = method.select(looked_at(seen, attention), 2)
        assert chosen.index.tolist() == [1, 3]
    assert (FastV.reads, PyramidDrop.reads) == ("previous", "own")


def test_greedyprune_takes_no_two_that_say_the_same():
    seen = view(1, visual=4, text=1, before=0)
    target = torch.zeros(12)
    target[0] = 1.0
    other = torch.zeros(12)
    other[1] = 1.0
    rows = [-target, target, target + 0.01 * other, target + 2 * other, target]
    seen = dataclasses.replace(seen, states=torch.stack(rows))
    method = GreedyPrune(threshold=0.9)
    assert method.select(seen, 2).index.tolist() == [1, 3]
    assert method.select(seen, 3).index.tolist() == [0, 1, 3]
    assert dataclasses.replace(method, threshold=1.0).select(seen, 2).index.tolist() == [1, 2]


def test_dart_looks_at_normalised_states():
    seen = view(2)
    centred = dataclasses.replace(seen, norm=lambda x: x - x.mean(dim=0))
    method = DartInside()
    plain, other = method.select(seen, 8), method.select(centred, 8)
    assert not plain.index.equal(other.index)
    keys = seen.heads.keys[:, seen.visual].transpose(0, 1).flatten(1)
    pivots = keys.abs().sum(1).topk(4).indices
    assert set(pivots.tolist()) <= set(plain.index.tolist())
    alone = dataclasses.replace(seen, text=seen.text[:0])
    assert method.select(alone, 8).index.equal(DartInside(text_pivots=0).select(seen, 8).index)


def test_aim_follows_the_walk_and_not_one_step():
    """All look at token 1, and token 1 looks at token 0: there the walk ends."""
    logits = torch.zeros(1, 8, 8)
    logits[0, 2:, 1] = 5.0
    logits[0, 1, 0] = 5.0
    seen = view(3, visual=6, text=2, before=0)
    seen = dataclasses.replace(seen, heads=heads_of(logits))
    assert AIMInside().select(seen, 1).index.tolist() == [0]
    assert AIMInside(iterations=1).select(seen, 1).index.tolist() == [1]


def test_raters_speak_of_the_image():
    seen = view(4, visual=5, text=4)
    states = torch.zeros_like(seen.states)
    states[seen.visual, 0] = 1.0
    states[seen.text[2], 0] = 3.0
    seen = dataclasses.replace(seen, states=states)
    assert raters(seen).tolist() == [int(seen.text[2])]
    later = dataclasses.replace(seen, states=torch.randn_like(states))  # chosen once
    assert raters(later).tolist() == [int(seen.text[2])]
    attention = torch.rand(2, 4, 5) / 5
    for method in (SparseVLM(recycle=0.0), SparseVLMPlus(heads=2)):
        told = dataclasses.replace(looked_at(seen, attention), rotary=None)
        best = attention[:, 2].mean(0).topk(2).indices.sort().values
        assert method.select(told, 2).index.equal(best)


def test_without_text_the_last_token_rates():
    seen = view(5, text=0)
    assert seen.text.numel() == 0
    assert raters(seen).tolist() == [len(seen.states) - 1]


def test_sparsevlm_plus_takes_out_the_distance():
    """Attention that follows the rotary weights alone tells nothing; what exceeds them does."""
    seen = view(6, visual=16, text=2)
    angles = torch.arange(len(seen.states))[:, None] * torch.tensor([0.05, 0.02, 0.05, 0.02])
    seen = dataclasses.replace(seen, rotary=(angles.cos(), angles.sin()))
    tables = torch.cat(seen.rotary, dim=1)
    near = (tables[seen.text] @ tables[seen.visual].T).expand(2, -1, -1) / 200
    told = near.clone()
    told[..., 3] *= 1.1
    seen = looked_at(seen, told)
    assert SparseVLM(recycle=0.0).select(seen, 1).index.tolist() == [15]
    chosen = SparseVLMPlus().select(seen, 1)
    assert chosen.index.tolist() == [3]
    assert chosen.notes == ()
    (note,) = SparseVLMPlus().select(dataclasses.replace(seen, rotary=None), 1).notes
    assert "not corrected for distance" in note


def test_strongest_heads_alone_count():
    seen = view(7, visual=4, text=1)
    attention = torch.tensor([[0.2, 0.3, 0.2, 0.2], [0.01, 0.02, 0.04, 0.0]])[:, None]
    seen = dataclasses.replace(looked_at(seen, attention), rotary=None)
    assert SparseVLMPlus(heads=1).select(seen, 1).index.tolist() == [1]
    attention = attention * torch.tensor([0.1, 9.0])[:, None, None]
    seen = dataclasses.replace(looked_at(seen, attention), rotary=None)
    assert SparseVLMPlus(heads=0.5).select(seen, 1).index.tolist() == [2]


@pytest.mark.parametrize(
    ("total", "kept", "clusters"),
    [
        (576, 300, 9),
        (309, 200, 4),
        (204, 110, 3),
        (576, 303, 9),
        (312, 110, 7),
        (117, 36, 3),
        (576, 66, 16),
        (82, 30, 2),
        (32, 17, 1),
    ],
)
def test_published_counts_of_clusters(total, kept, clusters):
    assert (
        int(0.3 * (total - kept)) // 10 + (int(0.3 * (total - kept)) % 10 + 1) // 10 + 1 == clusters
    )
    assert clusters_of(total, kept + clusters, 0.3) == clusters


def test_clusters_fill_what_is_left_of_any_count():
    for total in (2, 3, 50, 400):
        for keep in range(1, total):
            clusters = clusters_of(total, keep, 0.3)
            assert 0 <= clusters <= keep // 2
            assert clusters_of(total, keep, 0.0) == 0
            if 2 * clusters < keep - 1:  # not cut to half: the published number of this split
                assert (int(0.3 * (total - keep + clusters)) + 1) // 10 + 1 <= clusters


def test_recycled_tokens_are_merged_and_the_rest_is_dropped():
    x = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
    scores = torch.rand(60, generator=torch.Generator().manual_seed(1))
    chosen = recycled(x, scores, 20, 0.3)
    clusters = clusters_of(60, 20, 0.3)
    order = scores.argsort(descending=True)
    best, next_ = order[: 20 - clusters], order[20 - clusters :]
    assert set(best.tolist()) <= set(chosen.index.tolist())
    slots = chosen.assignment(60)
    used = next_[slots[next_] >= 0]
    assert used.equal(next_[: int(0.3 * len(next_)) + 1])
    torch.testing.assert_close(chosen.apply(x)[slots[best]], x[best])


def test_mutual_information_by_hand():
    seen = view(8, visual=2, text=2)
    independent = torch.tensor([[0.2, 0.3], [0.2, 0.3]])
    apart = torch.tensor([[0.4, 0.0], [0.0, 0.4]])
    told = looked_at(seen, torch.stack([independent, apart]))
    assert mutual_information(told) == pytest.approx(torch.tensor(2.0).log().item(), abs=1e-5)
    drawn = torch.rand(3, 2, 2, generator=torch.Generator().manual_seed(2)) / 4
    joint = drawn / drawn.sum((1, 2), keepdim=True)
    parts = joint.sum(1, keepdim=True) * joint.sum(2, keepdim=True)
    wanted = float((joint * (joint / parts).log()).sum())
    assert mutual_information(looked_at(seen, drawn)) == pytest.approx(wanted, abs=1e-5)


def test_autoprune_bends_its_curve_within_the_budget():
    method = AutoPrune(schedule=Logistic(start=2)).averaging(0.4)
    plan = method.schedule.counts(100, 16)

    def counts(spread):
        seen = view(9, visual=100, text=100, layer=2, depth=16, tokens=100)
        clear = torch.eye(100) * 0.5
        vague = torch.full((100, 100), 0.005)
        mixed = (spread * clear + (1 - spread) * vague).expand(2, -1, -1)
        told = looked_at(seen, mixed)
        early = dataclasses.replace(told, layer=1)
        assert method.count(early, plan[1]) == 100
        first = [method.count(dataclasses.replace(told, layer=i), plan[i]) for i in range(2, 16)]
        return [100, 100, *first]

    sure, unsure = counts(1.0), counts(0.0)
    for found in (sure, unsure):
        assert sum(plan) - 16 < sum(found) <= sum(plan)
        assert found == sorted(found, reverse=True)
    assert len(set(sure[2:])) == 1  # the text knows where to look: as many in every layer
    assert unsure[2] > sure[2]
    assert unsure[-1] < sure[-1]


def test_autoprune_leaves_what_its_budget_leaves():
    method = AutoPrune(schedule=Step(layer=3, keep=0.2))
    seen = view(10, visual=20, text=3, layer=3, depth=6, tokens=20)
    found = [method.count(dataclasses.replace(seen, layer=i), 4) for i in range(3, 6)]
    assert 12 - 3 < sum(found) <= 12
    assert lftr.get_method("autoprune").watches(6) == frozenset(range(1, 6))


@pytest.mark.parametrize("name", ["fastv", "greedyprune", "dart-inside"])
def test_one_cut_by_its_layer(name: str) -> None:
    usual = lftr.get_method(name).schedule
    assert lftr.get_method(name, layer=4).schedule == Step(4, usual.keep)
    assert lftr.get_method(name, keep=0.25, layer=0.5).schedule == Step(0.5, 0.25)
    assert lftr.get_method(name, keep=64).averaging(0.5).schedule == Step(2, 64).averaging(0.5)
    with pytest.raises(lftr.LftrError, match="no layer and no keep beside it"):
        lftr.get_method(name, schedule=Step(3, 0.1), layer=4)
