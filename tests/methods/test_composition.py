"""Methods made of methods: exact, and nothing but what the parts say."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from every import item
from hypothesis import given, settings
from hypothesis import strategies as st

import lftr
from lftr.methods import Adaptive, Merge, Mix, Then
from lftr.methods.operations.composing import after, stacked, with_heirs
from lftr.methods.operations.flows import mean_flow
from lftr.methods.operations.signals import stand_in

WRAPPERS = {
    "Then, first": lambda inner: Then(inner, "divprune"),
    "Then, second": lambda inner: Then("folder", inner, first=0.7),
    "Merge": Merge,
    "Merge, weighted": lambda inner: Merge(inner, weighting="similarity", own=0.6),
    "Mix, first": lambda inner: Mix(inner, "fastervlm", share=0.4),
    "Mix, second": lambda inner: Mix("visionzip", inner),
    "Adaptive": Adaptive,
    "Adaptive, by rank": lambda inner: Adaptive(inner, measure="rank", strength=2.0),
}
# Methods whose slots are no averages: they add, by design of their authors.
ADDING = {"prumerge", "prumerge-plus"}

every_method = pytest.mark.parametrize("inner", lftr.list_methods("before"))
every_wrapper = pytest.mark.parametrize("wrapper", WRAPPERS)
few = settings(max_examples=25, deadline=None, derandomize=True)


def merges(name, items, keep):
    """Say whether slots of a method, by ``name``, are averages by a rule of its own."""
    return lftr.get_method(name).select(lftr.VisualTokens.stack(items), keep).flow is not None


def row_sums(chosen):
    one = torch.zeros(chosen.count)
    return one.scatter_add(0, chosen.flow.slot, chosen.flow.weight)


def dense(chosen, total):
    """Return the decision as a matrix ``(K, N)``."""
    matrix = torch.zeros(chosen.count, total)
    if chosen.flow is None:
        matrix[torch.arange(chosen.count), chosen.index] = 1.0
        return matrix
    flow = chosen.flow
    return matrix.index_put_((flow.slot, flow.source), flow.weight, accumulate=True)


@every_wrapper
@every_method
def test_every_wrapper_with_every_method(wrapper, inner):
    method = WRAPPERS[wrapper](inner)
    items = [item(seed, (2, 3, 4)) for seed in (1, 2)]
    for keep in (1, 2, 9, 23):
        if wrapper == "Merge, weighted" and merges(inner, items, keep):
            with pytest.raises(lftr.ArgumentError, match="a method that merges no tokens"):
                method.select(lftr.VisualTokens.stack(items), keep)
            continue
        stack = method.select(lftr.VisualTokens.stack(items), keep)
        for i, tokens in enumerate(items):
            alone = method.select(tokens, keep)
            assert alone.index.shape == (keep,)
            assert (alone.index.diff() > 0).all()
            assert alone.index[-1] < 24
            assert stack.item(i).index.equal(alone.index)
            got = stack.item(i).apply(tokens.features)
            torch.testing.assert_close(got, alone.apply(tokens.features), rtol=1e-5, atol=1e-6)
            if alone.flow is not None and inner not in ADDING:
                torch.testing.assert_close(row_sums(alone), torch.ones(keep))


@every_method
def test_merge_keeps_what_its_method_keeps(inner):
    tokens = item(3, (1, 4, 5))
    plain, merged = lftr.get_method(inner).select(tokens, 7), Merge(inner).select(tokens, 7)
    assert merged.index.equal(plain.index)
    note = f"{inner} merges all tokens that it drops by itself: merging its choice adds nothing"
    all_flow = plain.flow is not None and bool(dense(plain, 20).any(dim=0).all())
    assert merged.notes == plain.notes + (note,) * all_flow
    torch.testing.assert_close(merged.weight.sum(), torch.tensor(20.0))
    seen = tokens.encoder_features
    unit = seen / seen.norm(dim=1, keepdim=True)
    slot = (unit @ unit[plain.index].T).argmax(1)
    slot[plain.index] = torch.arange(7)
    if plain.flow is not None:  # its slots take in the tokens that flow nowhere, each as one
        before, lost = dense(plain, 20), (dense(plain, 20) == 0).all(dim=0)
        heirs = torch.zeros(7, 20).index_put((slot[lost], lost.nonzero()[:, 0]), torch.ones(()))
        weight = plain.weight[:, None]
        expected = (before * weight + heirs) / (weight + heirs.sum(dim=1, keepdim=True))
        torch.testing.assert_close(dense(merged, 20), expected)
        return
    means = torch.stack([tokens.features[slot == k].mean(0) for k in range(7)])
    torch.testing.assert_close(merged.apply(tokens.features), means)


def test_merge_weights():
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.8, 0.6], [0.6, -0.8], [-0.6, -0.8]])
    tokens = lftr.VisualTokens(x)
    first_two = Always((0, 1))
    similar = Merge(first_two, weighting="similarity").select(tokens, 2)
    assert similar.assignment(5).tolist() == [0, 1, 0, 0, -1]  # the last is opposite to both
    torch.testing.assert_close(similar.apply(x)[0], (x[0] + 0.8 * x[2] + 0.6 * x[3]) / 2.4)
    own = Merge(first_two, own=0.6).select(tokens, 2)
    torch.testing.assert_close(own.apply(x)[0], 0.6 * x[0] + 0.4 * x[2:].mean(0))
    assert own.apply(x)[1].equal(x[1])
    torch.testing.assert_close(
        Merge(first_two, own=0.1).select(tokens, 2).apply(x),
        Merge(first_two).select(tokens, 2).apply(x),  # an equal share is more than that
    )


@few
@given(
    st.sampled_from(["divprune", "folder", "prumerge", "interpolate", "multi-scale-pool", "aim"]),
    st.sampled_from(["divprune", "tome", "prumerge", "interpolate", "multi-scale-pool", "aim"]),
    st.integers(0, 99),
    st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_one_decision_after_another_is_exact(first, second, seed, shares):
    tokens = lftr.VisualTokens.stack([item(seed, (1, 6, 6)), item(seed + 1, (1, 6, 6))])
    middle = 2 + round(shares[0] * 33)
    last = 1 + round(shares[1] * (middle - 2))
    one = lftr.get_method(first).select(tokens, middle)
    other = lftr.get_method(second).select(tokens.take(one.index), last)
    both = after(one, other)
    x = torch.randn(2, 36, 4, 3, dtype=torch.float64)
    torch.testing.assert_close(both.apply(x), other.apply(one.apply(x)), rtol=1e-5, atol=1e-6)
    assert both.index.equal(one.index.gather(1, other.index))
    torch.testing.assert_close(both.weight, other.inherited(one.weight), rtol=1e-4, atol=1e-4)
    for i in range(2):
        product = dense(other.item(i), middle) @ dense(one.item(i), 36)
        torch.testing.assert_close(dense(both.item(i), 36), product)


def test_then_lets_the_second_see_merged_tokens():
    tokens = item(4, (1, 4, 6))
    first = lftr.get_method("folder").select(tokens, 12)
    seen = tokens.take(first.index)
    merged = ("features", "encoder_features", "keys", "queries", "values", "visual_projected")
    seen = dataclasses.replace(seen, **{n: first.apply(getattr(tokens, n)) for n in merged})
    second = lftr.get_method("tome").select(seen, 5)
    chosen = Then("folder", "tome", first=0.5).select(tokens, 5)
    assert chosen.index.equal(first.index[second.index])
    expected = second.apply(first.apply(tokens.features))
    torch.testing.assert_close(chosen.apply(tokens.features), expected)


def test_then_by_default_reduces_twice_by_the_same_factor():
    seen = []
    tokens = item(5, (1, 6, 6))
    Then("uniform", Seeing(seen)).select(tokens, 4)
    Then("uniform", Seeing(seen), first=10).select(tokens, 4)
    Then("uniform", Seeing(seen), first=0.25).select(tokens, 4)
    Then("uniform", Seeing(seen), first=1.0).select(tokens, 4)
    assert seen == [12, 10, 9, 36]
    few = Then("uniform", Seeing(seen), first=3).select(tokens, 4)
    assert few.index.equal(lftr.get_method("uniform").select(tokens, 4).index)


def test_mix_shares_and_never_picks_twice():
    tokens = item(6, (1, 6, 6))
    first = lftr.get_method("fastervlm").select(tokens, 4)
    chosen = Mix("fastervlm", "uniform", share=0.25).select(tokens, 16)
    assert set(first.index.tolist()) < set(chosen.index.tolist())
    rest = torch.tensor([i for i in range(36) if i not in set(first.index.tolist())])
    even = lftr.get_method("uniform").select(tokens.take(rest), 12).index
    assert set(chosen.index.tolist()) == set(first.index.tolist()) | set(rest[even].tolist())
    for share, alone in ((0.0, "uniform"), (1.0, "fastervlm")):
        only = Mix("fastervlm", "uniform", share).select(tokens, 16)
        assert only.index.equal(lftr.get_method(alone).select(tokens, 16).index)


@dataclasses.dataclass(frozen=True)
class Runs(lftr.Method):
    """Merges runs of as many tokens; a kept token is the first of its run."""

    def choose(self, tokens, keep):
        slot = (torch.arange(tokens.count) * keep // tokens.count).expand(len(tokens.features), -1)
        return lftr.Selection(
            torch.searchsorted(slot, torch.arange(keep)[None]), mean_flow(slot, keep)
        )


def test_then_divides_tokens_step_by_step():
    """By hand: a quarter of token 1 is in slot 0, and stays a quarter whatever slot 1 joins."""
    flow = lftr.Flow(
        torch.tensor([[0, 1, 1, 2, 3]]),
        torch.tensor([[0, 0, 1, 1, 2]]),
        torch.tensor([[0.75, 0.25, 0.75, 0.25, 1.0]]),
    )
    one = lftr.Selection([[0, 1, 3]], flow)
    two = lftr.Selection([[0, 1]], mean_flow(torch.tensor([[0, 1, 1]]), 2))
    torch.testing.assert_close(after(one, two).weight, torch.tensor([[1.25, 2.75]]))
    dropped = after(one, lftr.Selection([[1, 2]]))  # with slot 0, token 0 and a quarter of token 1
    torch.testing.assert_close(dropped.weight, torch.tensor([[1.75, 1.0]]))
    again = with_heirs(dropped, torch.tensor([[0, 1, 0, 1]]), None)
    torch.testing.assert_close(again.weight, torch.tensor([[1.75 + 1.0, 1.0 + 0.25]]))
    torch.testing.assert_close(stacked([after(one, two).item(0)]).weight, after(one, two).weight)


def test_mix_takes_what_its_second_keeps_out_of_the_first():
    """By hand, on six tokens: no token is in two means, and none counts twice."""
    x = torch.randn(6, 3)
    tokens = lftr.VisualTokens(x)
    chosen = Mix(Runs(), Always((0, 3))).select(tokens, 4)  # of tokens 1, 2, 4 and 5
    assert chosen.index.tolist() == [0, 1, 3, 5]
    assert chosen.weight.tolist() == [2.0, 1.0, 2.0, 1.0]
    expected = torch.stack([x[[0, 2]].mean(0), x[1], x[[3, 4]].mean(0), x[5]])
    torch.testing.assert_close(chosen.apply(x), expected)
    both = Mix(Runs(), Runs()).select(tokens, 4)  # 2 and 5 are in a slot of each
    assert both.index.tolist() == [0, 1, 3, 4]
    assert both.weight.tolist() == [1.5, 1.5, 1.5, 1.5]
    pairs = [[0, 2], [1, 2], [3, 5], [4, 5]]
    torch.testing.assert_close(both.apply(x), torch.stack([x[pair].mean(0) for pair in pairs]))


@every_method
def test_mix_counts_each_token_once(inner):
    tokens = item(7, (1, 5, 6))
    for method in (Mix(inner, "random"), Mix(inner, "tome"), Mix("random", inner)):
        chosen = method.select(tokens, 9)
        assert chosen.weight.sum() <= 30.001
        assert chosen.weight.min() > 0.999


def rich(size, seed, spread):
    """Return tokens around one direction."""
    draw = torch.Generator().manual_seed(seed)
    return torch.ones(16) + spread * torch.randn(size, 16, generator=draw)


@pytest.mark.parametrize("measure", ["spread", "rank"])
def test_adaptive_gives_more_to_what_says_more(measure):
    method = Adaptive("uniform", measure=measure)
    items = [lftr.VisualTokens(rich(40, i, spread)) for i, spread in enumerate([0.1, 1.0, 0.5])]
    counts = method.allot(items, [10, 10, 10])
    assert sum(counts) == 30
    assert counts[1] > counts[2] > counts[0] >= 1
    assert Adaptive("uniform", measure=measure, strength=0.0).allot(items, [3, 20, 7]) == [10] * 3
    tiles = lftr.VisualTokens(torch.cat([t.features for t in items]), tiles=((1, 5, 8),) * 3)
    chosen = method.select(tiles, 30)
    assert torch.bincount(chosen.index // 40).tolist() == counts
    for i, (tile, count) in enumerate(zip(items, counts, strict=True)):
        own = lftr.get_method("uniform").select(tile, count).index
        assert (chosen.index[chosen.index // 40 == i] - 40 * i).equal(own)


@few
@given(st.lists(st.integers(1, 30), min_size=1, max_size=6), st.floats(0, 1), st.integers(0, 99))
def test_adaptive_is_exact_in_total(sizes, share, seed):
    items = [lftr.VisualTokens(rich(n, seed + i, i / 3)) for i, n in enumerate(sizes)]
    total = len(sizes) + round(share * (sum(sizes) - len(sizes)))
    given_counts = lftr.values.budget.resolve_all(lftr.Budget(total), sizes)
    counts = Adaptive("uniform").allot(items, given_counts)
    assert sum(counts) == total
    assert all(1 <= count <= size for count, size in zip(counts, sizes, strict=True))


@pytest.mark.parametrize("inner", ["folder", "trim", "pool", "interpolate", "visionzip", "aim"])
def test_adaptive_joins_decisions_about_frames(inner):
    """With counts that follow sizes, it is the method on each frame and nothing else."""
    tokens = item(7, (3, 4, 5))
    bare = dataclasses.replace(tokens, grid=None, frame_features=None)
    whole = Adaptive(inner, strength=0.0).select(tokens, 24)
    for i in range(3):
        own = torch.arange(20 * i, 20 * (i + 1))
        frame = dataclasses.replace(bare.take(own), grid=(1, 4, 5), _coordinates=None)
        part = lftr.get_method(inner).select(frame, 8)
        assert whole.index[8 * i : 8 * (i + 1)].equal(part.index + 20 * i)
        got = whole.apply(tokens.features)[8 * i : 8 * (i + 1)]
        torch.testing.assert_close(got, part.apply(frame.features))


def test_wrappers_ask_and_note_as_their_methods_do():
    both = Mix("fastervlm", "visionzip")
    visionzip = lftr.get_method("visionzip").evidence
    assert both.evidence == tuple(dict.fromkeys(lftr.get_method("fastervlm").evidence + visionzip))
    without = dataclasses.replace(item(8, (2, 3, 4)), cls_attention=None, keys=None)
    notes = (
        *stand_in("attention_received", "cls_attention"),
        *stand_in("features", "keys"),
    )
    assert lftr.get_method("visionzip").select(without, 8).notes == notes
    for method in (both, Then("visionzip", "fastervlm"), Adaptive("visionzip")):
        assert method.select(without, 8).notes == notes
    assert Merge("visionzip").select(without, 8).notes[:2] == notes
    assert Then(Adaptive("uniform"), "divprune").allot([without, item(0, (1, 2, 2))], [4, 2]) != [
        4,
        2,
    ]


def test_wrappers_nest():
    tokens = item(9, (2, 4, 5))
    method = Adaptive(Merge(Mix(Then("folder", "divprune", first=0.8), "fastervlm")))
    chosen = method.select(tokens, 13)
    assert chosen.index.unique().shape == (13,)
    torch.testing.assert_close(row_sums(chosen), torch.ones(13))


def test_auto_passes_through():
    tokens = item(10, (1, 6, 6))
    for wrapper in (Merge, Adaptive):
        chosen = wrapper("prumerge").select(tokens, "auto")
        assert chosen.index.equal(lftr.get_method("prumerge").select(tokens, "auto").index)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Merge(3), "inner = 3"),
        (lambda: Merge("divprun"), "'divprune'"),
        (lambda: Merge("divprune", weighting="max"), "weighting"),
        (lambda: Merge("divprune", own=1.5), "own"),
        (lambda: Mix("divprune", "uniform", share=-0.1), "share"),
        (lambda: Then("divprune", None), "b = None"),
        (lambda: Then("divprune", "uniform", first=0.0), "0.0"),
        (lambda: Then("divprune", "uniform", first=lftr.Budget(3)), "first"),
        (lambda: Adaptive("divprune", measure="size"), "measure"),
        (lambda: Adaptive("divprune", strength=-1), "strength"),
    ],
)
def test_wrong_options_say_so(make, message):
    with pytest.raises(lftr.LftrError, match=message):
        make()


@dataclasses.dataclass(frozen=True)
class Always(lftr.Method):
    """Keeps these tokens; one that has its own ``select`` and takes no stacks."""

    tokens: tuple[int, ...]

    def select(self, tokens, keep):
        assert not tokens.batched
        return lftr.Selection(torch.tensor(self.tokens[:keep]))


@dataclasses.dataclass(frozen=True)
class Seeing(lftr.Method):
    """Writes down how many tokens it sees."""

    seen: list

    def choose(self, tokens, keep):
        self.seen.append(tokens.count)
        return lftr.Selection.top(tokens.features[..., 0].float(), keep)


def test_stacks_of_single_decisions():
    one = lftr.Selection(torch.tensor([0, 2]))
    flow = lftr.Flow(torch.tensor([0, 1, 2]), torch.tensor([0, 0, 1]), torch.tensor([0.5, 0.5, 1]))
    two = lftr.Selection(torch.tensor([1, 2]), flow, ("a note",))
    stack = stacked([one, two])
    x = torch.randn(2, 4, 3)
    torch.testing.assert_close(stack.apply(x)[0], one.apply(x[0]))
    torch.testing.assert_close(stack.apply(x)[1], two.apply(x[1]))
    assert stack.index.tolist() == [[0, 2], [1, 2]]
    assert stack.notes == ("a note",)
    assert stacked([one, one]).flow is None


def test_anchors_that_stand_for_others():
    """Features stay as they are, the count is that of the nearest tokens; nothing composes it."""
    tokens = item(3, (1, 4, 5))
    anchor = Merge("divprune", weighting="anchor")
    chosen, mean = anchor.select(tokens, 6), Merge("divprune").select(tokens, 6)
    assert chosen.apply(tokens.features).equal(tokens.features[chosen.index])
    assert chosen.weight.equal(mean.weight)
    assert chosen.weight.sum() == 20
    for composed in (Then(anchor, "tome"), Then("tome", anchor), Mix(anchor, "random")):
        with pytest.raises(lftr.LftrError, match="cannot be composed"):
            composed.select(tokens, 6)
    for options in ({"weighting": "anchor"}, {"own": 0.5}):
        with pytest.raises(lftr.LftrError, match="a method that merges no tokens"):
            Merge("tome", **options).select(tokens, 6)


def test_merging_within_frames():
    tokens = item(3, (4, 2, 3))
    chosen = Merge("random", within="frame").select(tokens, 9)
    frames = torch.arange(24) // 6
    kept = set(frames[chosen.index].tolist())
    slots = chosen.assignment(24)
    for token in range(24):
        if int(frames[token]) in kept:
            assert frames[chosen.index[slots[token]]] == frames[token]


def test_rounds_of_k_means():
    """Each round: means of the groups at length one, then every token to the nearest mean."""
    tokens = item(5, (1, 4, 5))
    x = torch.nn.functional.normalize(tokens.encoder_features, dim=1)
    chosen = Merge("random", rounds=2).select(tokens, 5)
    centres = x[chosen.index]
    for _ in range(3):
        slot = (x @ centres.T).argmax(dim=1)
        slot[chosen.index] = torch.arange(5)
        centres = torch.stack([x[slot == k].mean(0) for k in range(5)])
        centres = torch.nn.functional.normalize(centres, dim=1)
    assert chosen.assignment(20).equal(slot)


def test_weights_are_counted():
    """By hand: each token's one is divided among its slots in proportion to its factors."""
    flow = lftr.Flow(
        torch.tensor([0, 1, 2, 2, 3]),
        torch.tensor([0, 0, 0, 1, 1]),
        torch.tensor([0.25, 0.25, 0.5, 0.25, 0.75]),
    )
    chosen = lftr.Selection([0, 3], flow)
    torch.testing.assert_close(chosen.weight, torch.tensor([2 + 2 / 3, 1 + 1 / 3]))
    already = torch.tensor([1.0, 2.0, 3.0, 4.0])
    torch.testing.assert_close(chosen.inherited(already), torch.tensor([3 + 2.0, 4 + 1.0]))
    told = lftr.Selection([3, 0], slot_weight=[5.0, 7.0])
    assert told.index.tolist() == [0, 3]
    assert told.weight.tolist() == [7.0, 5.0]
    assert told.inherited(already).tolist() == [7.0, 20.0]
    assert told.through(torch.tensor([1, 2, 4, 6])).weight.tolist() == [7.0, 5.0]
    for wrong in ([1.0], [0.0, 1.0], [float("inf"), 1.0]):
        with pytest.raises(lftr.LftrError, match="slot_weight"):
            lftr.Selection([0, 3], slot_weight=wrong)
