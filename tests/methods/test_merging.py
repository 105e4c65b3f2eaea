"""What the merging methods promise beyond their golden cases, and the primitives they share."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from every import item
from hypothesis import given, settings
from hypothesis import strategies as st

import lftr
from lftr.methods.before import prumerge
from lftr.methods.operations import density, flows, matching
from lftr.methods.operations.signals import stand_in

few = settings(max_examples=25, deadline=None, derandomize=True)


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@few
@given(st.integers(2, 200), st.floats(0, 1), st.integers(0, 1))
def test_halvings_reach_the_count(total, share, spare):
    keep = max(1, round(share * total))
    left = total
    for step in matching.halvings(total, keep, spare, first=(3, 1)):
        assert 1 <= step <= max((left - spare) // 2, 1)
        left -= step
    assert left == min(keep, total)
    assert list(matching.halvings(64, 16, 1)) == [31, 16, 1]
    assert list(matching.halvings(576, 72, first=(288, 36))) == [288, 36, 126, 54]


def test_the_likest_pairs_merge():
    x = normal(0, 1, 12, 5)
    unit = x[0] / x[0].norm(dim=1, keepdim=True)
    best, to = (unit[::2] @ unit[1::2].T).max(1)
    gone = best.argsort(descending=True)[:4]
    chosen = matching.soft_matching(x, [4]).item(0)
    assert set(chosen.index.tolist()) == set(range(12)) - set((2 * gone).tolist())
    joined = chosen.index[chosen.assignment(12)]
    assert joined[2 * gone].equal(2 * to[gone] + 1)


@pytest.mark.parametrize("method", ["folder", "tome"])
def test_the_class_token_stays_its_own(method):
    for seed in range(5):
        x = normal(seed, 21, 4)
        x[0] = x[1]  # the likest pair of all, of an even and an odd token
        tokens = lftr.VisualTokens(x, keys=x)
        for keep in (16, 9, 4):
            chosen = lftr.get_method(method, class_token=True).select(tokens, keep)
            assert chosen.assignment(21).tolist().count(0) == 1
            assert chosen.apply(x)[0].equal(x[0])
        merged = lftr.get_method(method).select(tokens, 16)
        assert merged.index[0] == 1


def test_slots_are_the_means_of_all_their_tokens():
    """Size-weighted through all folds: which AIM's plain means are not."""
    tokens = dataclasses.replace(item(0, (1, 6, 6)), grid=(1, 6, 6))
    x = tokens.features
    for method, plain in (("tome", True), ("folder", True), ("aim", False)):
        chosen = lftr.get_method(method).select(tokens, 5)
        slot = chosen.assignment(36)
        means = torch.stack([x[slot == k].mean(0) for k in range(5)])
        assert torch.allclose(chosen.apply(x), means, atol=1e-5) == plain


def test_full_folder_holds_back_what_is_attended_to():
    tokens = item(1, (1, 6, 6))
    loud = torch.full((1, 36), 1e-4)
    loud[0, [0, 6, 14, 22]] = 0.2
    tokens = dataclasses.replace(tokens, cls_attention=loud)
    full = lftr.methods.Folder(full=True)
    chosen = full.select(tokens, 24)
    assert {0, 6, 14, 22} <= set(chosen.index.tolist())
    assert not {0, 6, 14, 22} <= set(lftr.methods.Folder().select(tokens, 24).index.tolist())
    deaf = lftr.VisualTokens(tokens.keys)
    same = lftr.methods.Folder(full=True, alpha=0.0).select(tokens, 24)
    assert same.index.equal(lftr.methods.Folder().select(deaf, 24).index)
    assert full.select(dataclasses.replace(tokens, keys=None), 24).notes == stand_in(
        "features", "keys"
    )


def test_aim_merges_within_frames():
    tokens = item(2, (3, 4, 5))
    for keep in (3, 10, 31, 59):
        chosen = lftr.get_method("aim").select(tokens, keep)
        assert (chosen.flow.source // 20 == chosen.index[chosen.flow.slot] // 20).all()
        counts = torch.bincount(chosen.index // 20, minlength=3)
        assert counts.max() - counts.min() <= 1
    across = lftr.get_method("aim", per_frame=False).select(tokens, 10)
    assert (across.flow.source // 20 != across.index[across.flow.slot] // 20).any()
    assert lftr.get_method("aim").select(tokens, 2).count == 2  # fewer slots than frames


@pytest.mark.parametrize("keep", [64, 128, 192])
def test_visionzip_has_the_published_number_of_contextual_slots(keep):
    tokens = item(3, (1, 24, 24))
    chosen = lftr.get_method("visionzip").select(tokens, keep)
    size = torch.bincount(chosen.assignment(576))
    dominant = tokens.cls_attention.mean(0).topk(keep - {64: 10, 128: 20, 192: 30}[keep]).indices
    assert size[torch.isin(chosen.index, dominant)].eq(1).all()
    assert size.sum() == 576
    rest = [i for i in range(576) if i not in set(dominant.tolist())]
    step = len(rest) // (keep - len(dominant))
    targets = rest[::step][: keep - len(dominant)]
    assert set(chosen.index.tolist()) == set(dominant.tolist()) | set(targets)


@few
@given(st.integers(2, 40), st.integers(0, 40), st.integers(1, 5))
def test_prumerge_neighbours(total, count, block):
    count = min(count, total - 1)
    x, index = normal(total, 2, total, 3), torch.tensor([[0, total - 1], [0, total // 2 or 1]])
    x[:, total // 2] = x[:, 0]
    old, prumerge.BLOCK = prumerge.BLOCK, block * total
    try:
        got = prumerge._nearest_others(x, index, count)
    finally:
        prumerge.BLOCK = old
    unit = x / x.norm(dim=2, keepdim=True)
    cosine = (unit.gather(1, index[..., None].expand(-1, -1, 3)) @ unit.mT).double()
    cosine.scatter_(2, index[..., None], -9.0)
    far = cosine.gather(2, got)
    rest = cosine.scatter(2, got, -9.0)
    assert got.shape == (2, 2, count)
    assert not (got == index[..., None]).any()
    if count:
        assert (got.diff(dim=2) > 0).all()
        assert (far.amin(2) >= rest.amax(2) - 1e-6).all()


def test_prumerge_ties_go_to_the_earlier():
    scores = torch.tensor([[3.0, 1.0, 2.0, 2.0, 2.0, 0.0], [1.0, 1.0, 1.0, 1.0, 1.0, 1.0]])
    assert prumerge._top(scores, 3).tolist() == [[0, 2, 3], [0, 1, 2]]


def test_prumerge_plus_samples_the_rest_evenly():
    tokens = item(4, (1, 24, 24))
    chosen = lftr.get_method("prumerge-plus").select(tokens, 129)
    strongest = tokens.cls_attention.mean(0).topk(32).indices
    kept = set(chosen.index[:-1].tolist())
    assert set(strongest.tolist()) <= kept
    sampled = torch.tensor(sorted(kept - set(strongest.tolist())))
    assert len(sampled) == 96
    assert sampled.diff().max() <= 18  # three steps of 576 / 32 / 3
    auto = lftr.get_method("prumerge-plus").auto_count(tokens.as_batch())[0]
    again = lftr.get_method("prumerge-plus", share=0.9).select(tokens, auto)
    assert again.index.equal(lftr.get_method("prumerge-plus").select(tokens, "auto").index)


@pytest.mark.parametrize("seeds", ["farthest", "saliency", "density"])
def test_visual_grouping(seeds):
    tokens = item(5, (1, 8, 8))
    x = tokens.encoder_features / tokens.encoder_features.norm(dim=1, keepdim=True)
    fit = []
    for rounds in (0, 1, 3):
        chosen = lftr.get_method("visual-grouping", seeds=seeds, rounds=rounds).select(tokens, 9)
        slot = chosen.assignment(64)
        assert slot[chosen.index].equal(torch.arange(9))
        means = torch.stack([tokens.features[slot == k].mean(0) for k in range(9)])
        torch.testing.assert_close(chosen.apply(tokens.features), means)
        centre = torch.stack([x[slot == k].mean(0) for k in range(9)])
        fit.append((x * (centre / centre.norm(dim=1, keepdim=True))[slot]).sum(1).mean())
    assert fit[0] < fit[1]
    assert fit[0] < fit[2]
    if seeds == "saliency":
        top = tokens.cls_attention.mean(0).topk(9).indices.sort().values
        assert chosen.index.equal(top)


@few
@given(st.integers(1, 40), st.integers(3, 9), st.integers(1, 50))
def test_density_peaks(total, neighbours, block):
    x = normal(total, 2, total, 3)
    old = density.BLOCK, density.HELD
    density.BLOCK, density.HELD = block, block * total
    try:
        got = density.density_peaks(x, total, neighbours)
    finally:
        density.BLOCK, density.HELD = old
    for row, order in zip(x, got, strict=True):
        distance = (row[:, None] - row[None]).norm(dim=2) / 3**0.5
        near = distance.sort(dim=1).values[:, :neighbours]
        dense = torch.exp(-near.square().mean(1))
        score = torch.stack(
            [
                dense[i] * (distance[i][dense > dense[i]].min() if (dense > dense[i]).any() else d)
                for i, d in enumerate(distance.amax(1))
            ]
        )
        torch.testing.assert_close(score[order], score.sort(descending=True).values)


@pytest.mark.parametrize("held", [1, 1 << 22])
def test_peak_clusters(held, monkeypatch):
    monkeypatch.setattr(density, "BLOCK", 7)
    monkeypatch.setattr(density, "HELD", held)
    x = normal(3, 4, 30, 5)
    members = normal(4, 4, 30) > -0.5
    counts = torch.tensor([1, 3, 0, 8])
    scores = density.peak_scores(x, 4, members)
    leader = density.peak_clusters(x, 4, members, counts)
    for row, score, inside, count, got in zip(x, scores, members, counts, leader, strict=True):
        if count:
            peaks = score.argsort(descending=True, stable=True)[:count].sort().values
            nearest = peaks[(row[:, None] - row[peaks]).norm(dim=2).argmin(dim=1)]
            nearest[peaks] = peaks
            assert got[inside].equal(nearest[inside])


def test_equally_dense_tokens_are_no_longer_random():
    x = torch.tensor([[0.0], [1.0], [10.0], [11.0]])[None]  # with two neighbours all tie
    assert density.density_peaks(x, 4, 2).tolist() == [[0, 2, 1, 3]]


@few
@given(st.integers(1, 30), st.floats(0, 1), st.integers(1, 9))
def test_nearest_in_blocks(total, share, block):
    x, count = normal(total, 2, total, 4), max(1, round(share * total))
    index = torch.stack([torch.randperm(total)[:count].sort().values for _ in range(2)])
    old, flows.BLOCK = flows.BLOCK, block
    try:
        slot, cosine = flows.nearest(x, index)
    finally:
        flows.BLOCK = old
    unit = x / x.norm(dim=2, keepdim=True)
    pairs = unit @ unit.gather(1, index[..., None].expand(-1, -1, 4)).mT
    torch.testing.assert_close(cosine, pairs.amax(2))
    torch.testing.assert_close(pairs.gather(2, slot[..., None])[..., 0], pairs.amax(2))
    assert slot.gather(1, index).equal(torch.arange(count).expand(2, -1))


def test_cosines_that_differ_by_rounding_are_equal():
    angle = torch.tensor([0.1, 0.1 - 3e-6, 0.1 - 3e-4], dtype=torch.float64)
    centres = torch.stack([angle.cos(), angle.sin()], dim=1).float()[None]
    x = torch.tensor([[[1.0, 0.0]]])
    assert flows.nearest_to(x, centres[:, :2])[0].item() == 0  # nearer by 3e-7
    assert flows.nearest_to(x, centres)[0].item() == 2  # nearer by 3e-5


def test_a_slot_of_no_weight_takes_the_plain_mean():
    slot = torch.tensor([[0, 0, 1, 1, 2]])
    weight = torch.tensor([[0.0, 0.0, 1.0, 3.0, 0.0]])
    flow = flows.weighted_flow(slot, weight, 3)
    assert flow.weight.tolist() == [[0.5, 0.5, 0.25, 0.75, 1.0]]


def test_cut_takes_blocks_with_all_their_evidence():
    stack = lftr.VisualTokens.stack([item(6, (3, 2, 4)), item(7, (3, 2, 4))])
    cut = stack.cut(torch.tensor([1, 0]), torch.tensor([8, 16]), (1, 2, 4))
    for place, (row, frame) in enumerate([(1, 1), (0, 2)]):
        inside = torch.arange(8 * frame, 8 * frame + 8)
        alone = stack.item(row).take(inside)
        assert cut.item(place).grid == (1, 2, 4)
        for field in lftr.values.evidence.FIELDS:
            expected = getattr(alone, field)
            if field == "frame_features":
                expected = stack.frame_features[row, frame : frame + 1]
            got = getattr(cut.item(place), field)
            assert (got is None) == (expected is None)
            assert got is None or got.equal(expected)
