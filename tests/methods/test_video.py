"""What must hold of every method on clips: any number of frames, static ones, cuts, long ones."""

from __future__ import annotations

import dataclasses
import itertools
import math

import pytest
import torch
from every import build, every, item, tensors
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import lftr
from lftr.methods.base import ImageMethod
from lftr.methods.video.base import ClipMethod

VIDEO = [n for n in lftr.list_methods("before") if isinstance(lftr.get_method(n), ClipMethod)]
IN_TIME = lftr.methods.Lftr(time_share=0.5)
TESTED = [*VIDEO, "lftr", "PerFrame(divprune)", "Adaptive(lftr)", "Merge(evs)", "pool", "uniform"]

each = pytest.mark.parametrize("name", TESTED)
clips = st.tuples(st.integers(1, 9), st.integers(1, 4), st.integers(1, 5))
seeds = st.integers(0, 10_000)
fast = settings(max_examples=25, deadline=None, derandomize=True)


def clip(seed, grid, kind="random"):
    """Return a clip with all evidence, each frame of it new, the same, or with a late event."""
    tokens = item(seed, grid)
    if kind == "random":
        return tokens
    size = grid[1] * grid[2]
    place = torch.arange(tokens.count) % size
    seen = ("features", "encoder_features", "keys", "queries", "visual_projected")
    still = {name: getattr(tokens, name)[place].clone() for name in seen}
    still["frame_features"] = tokens.frame_features[:1].repeat(grid[0], 1)
    if kind == "late":
        for name in seen:
            still[name][-1] = -still[name][-1]
    return dataclasses.replace(tokens, **still)


def well_formed(chosen, tokens, keep):
    assert chosen.index.shape == (keep,)
    assert (chosen.index.diff() > 0).all()
    assert 0 <= chosen.index[0] <= chosen.index[-1] < tokens.count
    merged = chosen.apply(tokens.features)
    assert merged.shape == (keep, tokens.features.shape[1])
    assert merged.isfinite().all()
    if chosen.flow is not None:
        used = chosen.flow.slot[chosen.flow.weight != 0]
        assert set(used.tolist()) == set(range(keep))
        assert chosen.flow.source.max() < tokens.count


def averages(chosen):
    if chosen.flow is not None:
        sums = torch.zeros(chosen.count).index_add(0, chosen.flow.slot, chosen.flow.weight.float())
        torch.testing.assert_close(sums, torch.ones(chosen.count))


def same(one, other):
    assert one.index.equal(other.index)
    assert (one.flow is None) == (other.flow is None)


def test_all_methods_for_videos_are_here():
    names = "aim-video aot dycoke evs fastvid flashvid frame-sample free-video-llm holitom prunevid"
    assert [*names.split(), "semvid", "v-cast", "vidcom2"] == VIDEO


@each
@fast
@given(clips, seeds, st.floats(0.0, 1.0), st.sampled_from(["random", "static", "late"]))
def test_any_clip_keeps_exactly_as_many(name, grid, seed, share, kind):
    tokens = clip(seed, grid, kind)
    keep = max(1, round(share * tokens.count))
    chosen = build(name).select(tokens, keep)
    well_formed(chosen, tokens, keep)
    averages(chosen)
    again = build(name).select(tokens, keep)
    same(chosen, again)
    assert torch.equal(chosen.apply(tokens.features), again.apply(tokens.features))


@pytest.mark.parametrize("name", [n for n in every() if not isinstance(build(n), ImageMethod)])
@pytest.mark.parametrize("kind", ["random", "static", "late"])
@pytest.mark.parametrize("frames", [2, 3, 4, 5, 9])
def test_every_count_of_every_method(name, kind, frames):
    tokens = clip(frames, (frames, 2, 3), kind)
    for keep in {1, 2, frames - 1, frames, frames + 1, tokens.count // 2, tokens.count - 1}:
        well_formed(build(name).select(tokens, keep), tokens, keep)


@each
@pytest.mark.parametrize("keep", [1, 4, 9, 30, 58, 59])
def test_a_stack_of_unlike_clips_equals_one_by_one(name, keep):
    kinds = ["random", "static", "late", "random"]
    items = [clip(i, (5, 3, 4), kind) for i, kind in enumerate(kinds)]
    stack = build(name).select(lftr.VisualTokens.stack(items), keep)
    for i, tokens in enumerate(items):
        alone = build(name).select(tokens, keep)
        same(stack.item(i), alone)
        torch.testing.assert_close(
            stack.item(i).apply(tokens.features), alone.apply(tokens.features)
        )


@each
@pytest.mark.parametrize("tiles", [((1, 2, 3), (1, 4, 4), (1, 1, 1)), ((3, 2, 2), (2, 3, 3))])
def test_tiles_are_clips_of_their_own(name, tiles):
    total = sum(t * h * w for t, h, w in tiles)
    whole = item(3, (1, 1, total))
    tokens = dataclasses.replace(whole, grid=None, tiles=tiles)
    for keep in (1, 2, 3, total // 2, total - 1):
        well_formed(build(name).select(tokens, keep), tokens, keep)


@pytest.mark.parametrize("name", [n for n in TESTED if n != "frame-sample"])
@pytest.mark.parametrize("frames", range(2, 12))
def test_the_last_frame_is_not_lost(name, frames):
    tokens = clip(frames, (frames, 3, 3))
    chosen = build(name).select(tokens, tokens.count * 2 // 3)
    assert chosen.index[-1] >= (frames - 1) * 9


@pytest.mark.parametrize(
    ("name", "frames"),
    [
        *(("dycoke", frames) for frames in (6, 8, 12)),  # the last frame is compared, not thinned
        *((name, n) for name in ("evs", IN_TIME, "vidcom2", "fastvid", "holitom") for n in (5, 8)),
    ],
)
def test_a_late_event_in_a_static_clip_is_kept(name, frames):
    tokens = clip(frames, (frames, 4, 4), "late")  # the last token of all is another
    score = torch.ones(tokens.count)
    score[-1] = 2.0  # an encoder sees it too
    tokens = dataclasses.replace(tokens, attention_received=score, cls_attention=score[None])
    method = build(name) if isinstance(name, str) else name
    assert method.select(tokens, 16 + 4 * frames).index[-1] == tokens.count - 1


def test_frame_sample_keeps_whole_frames():
    tokens = clip(0, (8, 3, 3))
    method = lftr.get_method("frame-sample")
    assert (method.select(tokens, 18).index // 9).unique().tolist() == [1, 5]
    assert (method.select(tokens, 18).index // 9).bincount().max() == 9
    more = (method.select(tokens, 20).index // 9).bincount()
    assert sorted(more.tolist())[-3:] == [6, 7, 7]
    thin = lftr.get_method("frame-sample", share=1 / 3).select(tokens, 18)
    assert (thin.index // 9).unique(return_counts=True)[1].tolist() == [3] * 6


def test_evs_can_give_less_to_the_first_frame():
    tokens = clip(1, (6, 3, 3))
    assert (lftr.methods.EVS().select(tokens, 9).index < 9).all()
    half = lftr.methods.EVS(first=0.5).select(tokens, 10).index
    assert (half < 9).sum() == 5
    assert (lftr.methods.EVS(first=0.0).select(tokens, 45).index >= 9).all()


def test_dycoke_shrinks_all_frames_alike():
    tokens = clip(2, (8, 4, 4))
    counts = (lftr.methods.DyCoke(0.5).select(tokens, 32).index // 16).bincount(minlength=8)
    whole = counts[[0, 4, 6]]
    assert (whole.float() >= 1.5 * counts[[1, 2, 3, 5, 7]].max()).all()
    assert counts.min() >= 1


def test_prunevid_merges_what_stands_still():
    tokens = clip(3, (8, 4, 4), "static")
    method = lftr.methods.PruneVid()
    own = method.select(tokens, "auto")
    assert own.count in (8, 16)  # half of 16 positions, in one stretch or two
    assert own.flow.source.sort().values.equal(torch.arange(tokens.count))  # nothing is dropped
    still = lftr.methods.PruneVid(share=1.0, few=0).select(tokens, 2 * own.count)
    torch.testing.assert_close(still.apply(tokens.features), tokens.features[still.index])


def test_free_video_llm_looks_closer_at_what_is_asked_for():
    tokens = clip(4, (12, 4, 4))
    seen = tokens.visual_projected.clone()
    seen[7 * 16 : 8 * 16] = tokens.text_embeds[0]
    asked = dataclasses.replace(tokens, visual_projected=seen, text_embeds=tokens.text_embeds[:1])
    method = lftr.methods.FreeVideoLLM(slow=1, middle=0, side=1)
    counts = (method.select(asked, 18).index // 16).bincount(minlength=12)
    assert counts.argmax() == 7
    assert counts.tolist() == [7 if frame == 7 else 1 for frame in range(12)]


def test_lftr_gives_frames_that_change_more():
    tokens = clip(5, (6, 4, 4), "static")
    noise = torch.randn(16, 7, generator=torch.Generator().manual_seed(0))
    x = tokens.encoder_features.clone()
    x[48:64] += 3 * noise
    tokens = dataclasses.replace(tokens, encoder_features=x)
    counts = (lftr.methods.Lftr(time_share=0.5).select(tokens, 12).index // 16).bincount(
        minlength=6
    )
    assert counts[3] > counts[[1, 2, 5]].max()
    even = (lftr.methods.Lftr(time_share=0.0).select(tokens, 12).index // 16).bincount(minlength=6)
    assert even.tolist() == [2] * 6


def test_lftr_in_time_only_keeps_what_changed():
    tokens = clip(6, (5, 4, 4), "late")
    chosen = lftr.methods.Lftr(time_share=1.0, first="whole").select(tokens, 17)
    assert chosen.index.tolist() == [*range(16), tokens.count - 1]
    merged = chosen.apply(tokens.features)
    torch.testing.assert_close(merged[:16], tokens.features[:16])
    assert chosen.assignment(tokens.count).tolist() == [*list(range(16)) * 4, *range(15), 16]
    plain = lftr.methods.Lftr(time_share=1.0, first="whole", still="drop", leftovers="drop")
    dropped = plain.select(tokens, 17)
    assert dropped.flow is None
    assert dropped.index.equal(chosen.index)


@pytest.mark.parametrize("keep", [1, 3, 7, 20, 95])
def test_lftr_keeps_its_count_under_every_option(keep):
    """Also where some frames change in nothing, and so have nothing to pick from."""
    torch.manual_seed(0)
    features = torch.randn(1, 16, 8).repeat(6, 1, 1)
    features[3, :4] = torch.randn(4, 8)
    tokens = lftr.VisualTokens(features.flatten(0, 1), grid=(6, 4, 4))
    options = itertools.product(
        (0.0, 0.5, 1.0), ("whole", "even"), (1.0, math.inf), ("spread", "relevant"), (0.0, 0.9, 1.0)
    )
    for time_share, first, candidates, among, diversity in options:
        method = lftr.methods.Lftr(
            time_share=time_share,
            first=first,
            candidates=candidates,
            among=among,
            diversity=diversity,
        )
        index = method.select(tokens, keep).index
        assert len(index.unique()) == keep, method


def test_lftr_can_give_the_first_frame_an_even_share():
    tokens = clip(8, (5, 4, 4))
    counts = (
        lftr.methods.Lftr(time_share=1.0, first="even").select(tokens, 40).index // 16
    ).bincount()
    assert counts[0] == 8
    whole = lftr.methods.Lftr(time_share=1.0, first="whole").select(tokens, 40)
    assert (whole.index // 16).bincount()[0] == 16


def test_lftr_without_leftovers_merges_nothing_where_it_reduces_in_space_alone():
    tokens = clip(8, (5, 4, 4))
    assert lftr.methods.Lftr(leftovers="drop").select(tokens, 10).flow is None
    assert lftr.methods.Lftr(leftovers="drop", time_share=0.5).select(tokens, 10).flow is not None
    counted = lftr.methods.Merge("lftr(leftovers=drop)", weighting="anchor").select(tokens, 10)
    assert counted.weight.sum() == tokens.count


class Largest(TorchDispatchMode):
    """The number of elements of the largest tensor that anything made."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor) and 0 not in leaf.stride():
                self.elements = max(self.elements, leaf.numel())
        return out


@pytest.mark.slow
@pytest.mark.parametrize("name", [*VIDEO, "lftr", "PerFrame(divprune)", "Adaptive(lftr)"])
def test_a_long_clip_holds_nothing_larger_than_its_frames_maps(name):
    frames, size, width = 512, 196, 8
    draw = torch.Generator().manual_seed(0)
    total = frames * size
    x = torch.randn(total, width, generator=draw)
    x[size:] += 2 * x[:-size]  # frames resemble those before
    tokens = lftr.VisualTokens(
        x,
        grid=(frames, 14, 14),
        encoder_features=x,
        cls_attention=torch.rand(1, total, generator=draw),
        visual_projected=x,
        text_embeds=x[:1],
        text_token_embeds=x[:4],
        frame_features=x.view(frames, size, width).mean(1),
        attention_received_shallow=torch.rand(total, generator=draw),
    )
    with Largest() as seen:
        chosen = build(name).select(tokens, 1 / 16)
    well_formed(chosen, tokens, total // 16)
    assert seen.elements <= 1.02 * total * size  # a map of every frame; of the clip 512 times that


def test_settings_name_what_they_allow():
    for name, option, value in [
        ("evs", "first", 1.5),
        ("frame-sample", "share", 0.0),
        ("flashvid", "same", 1.5),
        ("semvid", "objects", 1.5),
        ("semvid", "longest", 0),
        ("v-cast", "temperature", 0.0),
        ("vidcom2", "temperature", 0.0),
        ("dycoke", "merging_ratio", -0.1),
        ("aim-video", "folds", (0,)),
        ("fastvid", "segments", 0),
        ("holitom", "longest", 0),
        ("prunevid", "clusters", 2.0),
        ("free-video-llm", "pool", "mean"),
        ("lftr", "time_share", 1.1),
        ("lftr", "first", "none"),
        ("lftr", "still", "keep"),
    ]:
        with pytest.raises(lftr.LftrError, match=f"{option} = .*allowed: "):
            lftr.get_method(name, **{option: value})


def test_frames_without_descriptors_are_noted():
    tokens = clip(7, (4, 3, 3))
    assert not build("fastvid").select(tokens, 9).notes
    without = dataclasses.replace(tokens, frame_features=None)
    notes = build("fastvid").select(without, 9).notes
    assert any("by the mean of a frame's features after the projector" in note for note in notes)
    other = dataclasses.replace(
        tensors(tokens, lambda x: x), frame_features=torch.randn(3, 4)
    )  # as many as tiles, not as frames
    assert build("fastvid").select(other, 9).notes == notes
