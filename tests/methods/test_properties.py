"""What must hold of every method and wrapper, for any item; new ones are found by themselves."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from every import FIELDS, build, every, item, tensors
from hypothesis import given, settings
from hypothesis import strategies as st

import lftr
from lftr.methods.operations.signals import stand_in

# Where the layout or the order of the tokens takes part in the decision.
LAYOUT = {
    "aim",  # even and odd places
    "aim-video",
    "cls-only",
    "coverage",  # candidates are evenly spread
    "downsample",
    "dycoke",  # images: frames that are compared with none keep evenly spread tokens
    "evs",  # so does the first frame
    "ficoco",  # windows
    "fold",
    "folder",
    "frame-sample",
    "free-video-llm",
    "hiprune",
    "holov",  # runs of the raster order
    "interpolate",
    "lftr",
    "multi-scale-pool",
    "pixel-prune",
    "pool",
    "prumerge",  # as trim
    "prumerge-plus",
    "random",
    "region-router",
    "region-router, fitted",
    "tome",
    "trim",  # the mean token stands in place of the last dropped one
    "uniform",
    "visionzip",  # every n-th of the rest
    "vscan",  # windows
}
# Where two tokens may tie by the rule itself: each the other's nearest, both the most isolated.
TIED = {"divprune", "flashvid", "visual-grouping"}
# Options under which the layout counts at the sizes of these tests.
LOUD = {
    "ficoco": {"rounds": 3, "penalty": 100.0},
    "hiprune": {"alpha": 1.0},
    "lftr": {"candidates": 1.0},
    "vscan": {"window": 2},
}
# Where the length of the features does.
LENGTH = {
    "pixel-prune",
    "prunesid",  # a sigmoid
    *("fastvid", "flashvid", "holitom", "prunevid"),  # distances of densities
}

each = pytest.mark.parametrize("name", every())
grids = st.tuples(st.integers(1, 2), st.integers(1, 5), st.integers(1, 6))
seeds = st.integers(0, 10_000)
fast = settings(max_examples=12, deadline=None, derandomize=True)


def count_of(tokens, share):
    return max(1, min(tokens.count, round(tokens.count * share)))


def same(one, other, x=None):
    assert one.index.equal(other.index)
    assert (one.flow is None) == (other.flow is None)
    if x is not None:
        torch.testing.assert_close(one.apply(x), other.apply(x), rtol=1e-5, atol=1e-6)


def well_formed(chosen, tokens, keep):
    assert chosen.index.shape == (keep,)
    assert (chosen.index[1:] > chosen.index[:-1]).all()
    assert chosen.index[0] >= 0
    assert chosen.index[-1] < tokens.count
    merged = chosen.apply(tokens.features)
    assert merged.shape == (keep, tokens.features.shape[1])
    assert merged.dtype == tokens.features.dtype
    assert merged.isfinite().all()
    if chosen.flow is not None:
        assert chosen.flow.source.shape == chosen.flow.slot.shape == chosen.flow.weight.shape
        assert set(chosen.flow.slot[chosen.flow.weight != 0].tolist()) == set(range(keep))


@each
@pytest.mark.parametrize("grid", [(1, 4, 5), (2, 3, 3), (1, 1, 7), (1, 6, 1)])
def test_every_count_is_exact(name, grid):
    tokens = item(1, grid)
    for keep in range(1, tokens.count + 1):
        well_formed(build(name).select(tokens, keep), tokens, keep)


@each
@fast
@given(grids, seeds, st.floats(0.0, 1.0))
def test_any_item(name, grid, seed, share):
    tokens = item(seed, grid)
    keep = count_of(tokens, share)
    chosen = build(name).select(tokens, keep)
    well_formed(chosen, tokens, keep)
    torch.manual_seed(seed)  # nothing is drawn from the global generator
    again = build(name).select(tokens, keep)
    same(chosen, again)
    assert torch.equal(chosen.apply(tokens.features), again.apply(tokens.features))


@each
def test_all_kept_is_identity(name):
    tokens = item(2, (1, 3, 4))
    chosen = build(name).select(tokens, 1.0)
    assert chosen.index.equal(torch.arange(12))
    assert torch.equal(chosen.apply(tokens.features), tokens.features)


@each
def test_features_with_a_gradient(name):
    tokens = item(3, (1, 4, 5))
    wanted = build(name).select(tokens, 7)
    leaf = tokens.features.clone().requires_grad_()
    chosen = build(name).select(dataclasses.replace(tokens, features=leaf), 7)
    same(chosen, wanted)
    chosen.apply(leaf).sum().backward()
    assert leaf.grad.count_nonzero() > 0


@each
@fast
@given(grids, seeds, st.floats(0.0, 0.99))
def test_stack_equals_one_by_one(name, grid, seed, share):
    items = [item(seed + i, grid) for i in range(3)]
    keep = count_of(items[0], share)
    stack = build(name).select(lftr.VisualTokens.stack(items), keep)
    for i, tokens in enumerate(items):
        alone = build(name).select(tokens, keep)
        same(stack.item(i), alone, tokens.features)
    mates = build(name).select(lftr.VisualTokens.stack(items[::-1][:2]), keep)
    same(mates.item(0), stack.item(2), items[2].features)


@each
@pytest.mark.parametrize(
    "kind", ["constant", "zero", "duplicates", "even", "huge", "tiny", "blank"]
)
def test_degenerate_items(name, kind):
    for grid in [(1, 4, 4), (1, 1, 1), (2, 1, 3)]:
        tokens = item(3, grid, kind)
        for keep in {1, tokens.count // 2 or 1, max(tokens.count - 1, 1)}:
            chosen = build(name).select(tokens, keep)
            well_formed(chosen, tokens, keep)
            stack = build(name).select(lftr.VisualTokens.stack([tokens, item(4, grid)]), keep)
            same(stack.item(0), chosen)


@each
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_decides_as_float32(name, dtype):
    for seed in range(4):
        half = tensors(item(seed, (1, 4, 5)), lambda x: x.to(dtype))
        wide = tensors(half, lambda x: x.float())
        chosen = build(name).select(half, 7)
        well_formed(chosen, half, 7)
        assert chosen.index.equal(build(name).select(wide, 7).index)


@each
@fast
@given(seeds, st.sampled_from([torch.nan, torch.inf, -torch.inf]), st.integers(1, 11))
def test_non_finite_values_count_as_zero_and_are_noted(name, seed, value, keep):
    clean = item(seed, (1, 3, 4))
    features, attention = clean.features.clone(), clean.attention_received.clone()
    features[seed % 12, seed % 5] = value
    attention[seed % 7] = value
    broken = dataclasses.replace(clean, features=features, attention_received=attention)
    zeroed = tensors(broken, lambda x: x.nan_to_num(0.0, 0.0, 0.0))
    chosen = build(name).select(broken, keep)
    assert chosen.index.equal(build(name).select(zeroed, keep).index)
    named = ", ".join(["features"] * build(name).sees_features + ["attention_received"])
    assert f"non-finite values in {named} were taken as 0" in chosen.notes


@each
def test_what_does_not_see_the_features_chooses_without_them(name):
    tokens, blind = item(10, (1, 4, 5)), not build(name).sees_features
    noise = dataclasses.replace(tokens, features=torch.full_like(tokens.features, torch.nan))
    chosen = build(name).select(noise, 7)
    assert blind == (not chosen.notes)
    assert not blind or chosen.index.equal(build(name).select(tokens, 7).index)


@each
@pytest.mark.parametrize("keep", [1, 6, 11, 12, 13, 14, 15])
def test_separators_go_first(name, keep):
    bare = item(5, (1, 3, 4))
    place = torch.tensor([0, 1, 2, 3, -1, 4, 5, 6, 7, -1, 8, 9, 10, 11, -1])
    padded = tensors(bare, lambda x: x, place.clamp_min(0))
    tokens = dataclasses.replace(padded, grid=(1, 3, 4), separator=place < 0)
    chosen = build(name).select(tokens, keep)
    patches = place[chosen.index][place[chosen.index] >= 0]
    assert len(chosen.index) == keep
    assert len(patches) == min(keep, 12)
    if keep < 12:
        assert patches.equal(build(name).select(bare, keep).index)
    assert (place[chosen.index] < 0).nonzero().numel() == max(0, keep - 12)


@each
@fast
@given(seeds, st.sampled_from([0.25, 2.0, 64.0]))
def test_scale_of_the_features_plays_no_part(name, seed, factor):
    tokens = item(seed, (1, 4, 5))
    scaled = dataclasses.replace(
        tokens,
        features=tokens.features * factor,
        encoder_features=tokens.encoder_features * factor,
        keys=tokens.keys * factor,
    )
    if name.rstrip(")").rpartition("(")[2] not in LENGTH:
        assert build(name).select(scaled, 6).index.equal(build(name).select(tokens, 6).index)


@each
def test_permutation(name):
    """What ignores the layout picks the same tokens in whatever order; what does not, does not."""
    method = dataclasses.replace(build(name), **LOUD.get(name, {}))
    inner = name.rstrip(")").rpartition("(")[2]
    unmoved = []
    for seed in range(8):
        tokens = item(seed, (1, 4, 5))
        order = torch.randperm(20, generator=torch.Generator().manual_seed(seed))
        moved = dataclasses.replace(tensors(tokens, lambda x: x, order), grid=(1, 4, 5))
        chosen, other = method.select(tokens, 7), method.select(moved, 7)
        unmoved.append(order[other.index].sort().values.equal(chosen.index))
    if inner in LAYOUT:
        assert not all(unmoved)
    elif inner in TIED:
        assert sum(unmoved) >= 4
    else:
        assert all(unmoved)


@each
def test_missing_evidence_is_named(name):
    tokens = lftr.VisualTokens(item(6, (1, 3, 4)).features, grid=(1, 3, 4))
    method = build(name)
    asked = {field for need in method.evidence for field in need}
    message = None
    try:
        chosen = method.select(tokens, 5)
    except lftr.values.errors.MissingEvidenceError as error:
        message = str(error)
    if message is not None:
        assert any(field in message for field in asked)
        return
    assert chosen.count == 5
    needs = [need for need in method.evidence if "features" not in need]
    assert not needs or chosen.notes  # it managed without, and says so


@each
def test_evidence_that_was_not_asked_for_plays_no_part(name):
    for seed in range(3):
        method, tokens = build(name), item(seed, (1, 4, 5))
        asked = {field for need in method.evidence for field in need}
        rest = {
            field: None
            for field in lftr.values.evidence.FIELDS.keys() - {"features"}
            if field not in asked and getattr(tokens, field) is not None
        }
        bare = dataclasses.replace(tokens, **rest)
        assert method.select(bare, 7).index.equal(method.select(tokens, 7).index)


@pytest.mark.parametrize("name", ["fastervlm", "vispruner", "two-expert", "id-selection", "scope"])
def test_stand_ins_are_noted(name):
    tokens = item(7, (1, 3, 4))
    assert not build(name).select(tokens, 5).notes
    without = dataclasses.replace(tokens, cls_attention=None)
    chosen = build(name).select(without, 5)
    assert stand_in("attention_received", "cls_attention")[0] in chosen.notes
    as_cls = dataclasses.replace(tokens, cls_attention=tokens.attention_received[None])
    assert chosen.index.equal(build(name).select(as_cls, 5).index)


@pytest.mark.parametrize("name", ["cdpruner", "trim", "two-expert"])
def test_the_prompts_own_embeddings_stand_in_for_a_text_tower(name):
    tokens = item(8, (1, 3, 4))
    assert not build(name).select(tokens, 5).notes
    without = dataclasses.replace(tokens, visual_projected=None, text_embeds=None)
    chosen = build(name).select(without, 5)
    assert stand_in("text_token_embeds", "text_embeds")[0] in chosen.notes
    half = dataclasses.replace(tokens, visual_projected=None)
    assert build(name).select(half, 5).index.equal(chosen.index)


def test_auto_counts():
    tokens = item(9, (1, 6, 6))
    chosen = build("trim").select(tokens, "auto")
    assert 1 <= chosen.count < 36
    with pytest.raises(lftr.LftrError, match="trim"):
        build("divprune").select(tokens, "auto")
    spike = torch.zeros(36)
    spike[:3] = 50.0
    loud = dataclasses.replace(
        tokens, visual_projected=-spike[:, None].expand(-1, 5), text_embeds=torch.ones(1, 5)
    )
    assert build("trim").select(loud, "auto").count == 4  # three outliers and the mean of the rest
    stack = lftr.VisualTokens.stack([tensors(loud, torch.zeros_like), loud])
    with pytest.raises(lftr.LftrError, match="one item at a time"):
        build("trim").select(stack, "auto")


@each
@pytest.mark.parametrize("grid", [(1, 6, 6), (3, 4, 5)], ids=str)
def test_a_selection_that_was_changed_in_place_spoils_nothing(name, grid):
    """Neither later selections, whatever is kept for them, nor the item that it was made of."""
    method, tokens = build(name), item(3, grid)
    for keep in (2, 7, 16):
        before = {f: x.clone() for f in FIELDS if (x := getattr(tokens, f)) is not None}
        first, again = method.select(tokens, keep), method.select(tokens, keep)
        wanted = [x.clone() for x in parts_of(again)]
        for part in [*parts_of(first), first.positions()]:
            if part.numel() > 1 and 0 in part.stride():  # an expanded tensor refuses by itself
                continue
            part.add_(1)
        for chosen in (again, method.select(tokens, keep)):
            for part, expected in zip(parts_of(chosen), wanted, strict=True):
                assert part.equal(expected)
        for field, value in before.items():
            assert getattr(tokens, field).equal(value)


def parts_of(chosen):
    """Every tensor of a selection."""
    flow = chosen.flow
    return [chosen.index] + ([flow.source, flow.slot, flow.weight] if flow is not None else [])


def test_a_note_on_a_stand_in_says_what_happened_and_what_to_do():
    (note,) = stand_in("text_token_embeds", "text_embeds")
    for words in (
        "the text in CLIP's space (text_embeds)",
        "--text-tower",
        "lftr.reduce(guidance=",
    ):
        assert words in note
    assert "the text's embeddings in the language model (text_token_embeds)" in note
    assert stand_in("keys", "keys") == ()
