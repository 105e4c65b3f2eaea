"""What no golden case says of a method: its options, one by one, against plain loops."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from every import item

import lftr


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("vispruner", "important_ratio", 1.1),
        ("vispruner", "important_ratio", "half"),
        ("vispruner", "step", 0),
        ("scope", "alpha", -1),
        ("scope", "combined", "mean"),
        ("hiprune", "alpha", 2),
        ("hiprune", "text_share", float("nan")),
        ("dart", "pivots", 0),
        ("dart", "text_pivots", -1),
        ("dart", "norm", "values"),
        ("id-selection", "gamma", -0.1),
        ("greedy-nms", "threshold", 1.5),
        ("two-expert", "text_weight", -1),
        ("pixel-prune", "threshold", -1e-3),
    ],
)
def test_a_wrong_option_is_refused_by_name(name, option, value):
    with pytest.raises(lftr.LftrError, match=f"{option} = .*allowed: "):
        lftr.get_method(name, **{option: value})


def top(scores, count):
    return sorted(sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:count])


def test_hiprune_takes_neighbours_within_their_frame():
    tokens = lftr.VisualTokens(
        torch.zeros(18, 1),
        grid=(2, 3, 3),
        attention_received=torch.arange(18.0),
        attention_received_shallow=torch.eye(18)[4],  # the middle of the first frame
    )
    chosen = lftr.methods.HiPrune(alpha=1.0).select(tokens, 7)  # one anchor
    assert chosen.index.tolist() == [1, 3, 4, 5, 7, 16, 17]
    corner = dataclasses.replace(tokens, attention_received_shallow=torch.eye(18)[9])
    chosen = lftr.methods.HiPrune(alpha=1.0).select(corner, 4)
    assert chosen.index.tolist() == [9, 10, 12, 17]
    chosen = lftr.methods.HiPrune(alpha=1.0).select(tokens, 3)  # fewer slots than neighbours
    assert chosen.index.tolist() == [4, 5, 7]
    tiny = torch.full((18,), 1e-20)  # beside the highest, rounded away in a sum
    tiny[[1, 3]], tiny[17] = 3e-20, 1.0
    some = dataclasses.replace(tokens, attention_received=tiny)
    assert lftr.methods.HiPrune(alpha=1.0).select(some, 3).index.tolist() == [1, 3, 4]
    tiny[[1, 3]], tiny[[5, 7]] = 1e-20, 3e-20
    assert lftr.methods.HiPrune(alpha=1.0).select(some, 3).index.tolist() == [4, 5, 7]


def test_hiprune_knows_neighbours_of_tokens_that_were_taken():
    tokens = item(0, (2, 4, 5))
    method = lftr.methods.HiPrune(alpha=1.0)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    for index in (torch.arange(40), order):
        chosen = method.select(tokens.take(index), 12)
        assert index[chosen.index].sort().values.equal(method.select(tokens, 12).index)
    without = torch.arange(40)[torch.arange(40) != int(tokens.attention_received_shallow.argmax())]
    assert method.select(tokens.take(without), 12).count == 12


def test_hiprune_shares_with_the_text():
    tokens = item(0, (1, 4, 5))
    plain = lftr.methods.HiPrune().select(tokens, 8)
    shared = lftr.methods.HiPrune(text_share=0.5).select(tokens, 8)
    seen = top(tokens.attention_received.tolist(), 4)
    assert set(seen) <= set(plain.index.tolist()) & set(shared.index.tolist())
    text = tokens.text_embeds / tokens.text_embeds.norm(dim=1, keepdim=True)
    asked = -torch.cosine_similarity(tokens.visual_projected, text.mean(0)[None])
    asked[seen] = -torch.inf
    assert shared.index.tolist() == sorted(seen + top(asked.tolist(), 4))


@pytest.mark.parametrize("asked", [0.0, 0.5, 1.0])
def test_coverage_merges_only_what_it_is_told_to(asked):
    tokens = item(1, (1, 8, 8))
    assert lftr.methods.Coverage(asked).select(tokens, 16).plain
    merged = lftr.methods.Coverage(asked, leftovers="merge").select(tokens, 16)
    assert merged.plain == (asked == 1.0)


@pytest.mark.parametrize("weight", [0.0, 0.4, 3.0])
def test_two_experts(weight):
    tokens = item(1, (1, 4, 5))
    text = (tokens.text_embeds / tokens.text_embeds.norm(dim=1, keepdim=True)).mean(0)
    projected = tokens.visual_projected / tokens.visual_projected.norm(dim=1, keepdim=True)
    seen, asked = tokens.cls_attention.mean(0), -projected @ text
    scores = sum(
        w * (s - s.mean()) / s.std(correction=0) for w, s in ((1.0, seen), (weight, asked))
    )
    chosen = lftr.methods.TwoExpert(text_weight=weight).select(tokens, 6)
    assert chosen.index.tolist() == top(scores.tolist(), 6)


@pytest.mark.parametrize("seed", range(8))
def test_scope_adds_the_sum_over_heads(seed):
    tokens = item(seed, (1, 4, 5))
    x = tokens.encoder_features / tokens.encoder_features.norm(dim=1, keepdim=True)
    similar, bonus = x @ x.T, tokens.cls_attention.sum(0) ** 0.5
    covered, picks = torch.zeros(20), []
    for _ in range(6):
        value = (similar - covered).clamp_min(0).sum(1) + bonus
        value[picks] = -torch.inf
        picks.append(int(value.argmax()))
        covered = torch.maximum(covered, similar[picks[-1]])
    chosen = lftr.methods.Scope(alpha=0.5, combined="add").select(tokens, 6)
    assert chosen.index.tolist() == sorted(picks)


def test_greedy_nms_asks_the_prompts_last_token():
    tokens = item(3, (1, 4, 5))
    scores = torch.cosine_similarity(tokens.features, tokens.text_token_embeds[-1:])
    x = tokens.features / tokens.features.norm(dim=1, keepdim=True)
    kept = []
    for i in scores.argsort(descending=True).tolist():
        if all(x[i] @ x[j] <= 0.6 for j in kept):
            kept.append(i)
    count = len(kept) - 1
    chosen = lftr.methods.GreedyNMS(threshold=0.6).select(tokens, count)
    assert chosen.index.tolist() == sorted(kept[:count])
    alone = lftr.methods.GreedyNMS(threshold=1.0).select(tokens, 5)
    assert alone.index.tolist() == top(scores.tolist(), 5)


def foretold(x, threshold):
    """Return the largest difference of each patch of one frame ``(H, W, C)``, in a plain loop."""

    def apart(a, b):
        return float((a - b).abs().max())

    out = []
    for h in range(x.shape[0]):
        for w in range(x.shape[1]):
            left = x[h, w - 1] if w else None
            above = x[h - 1, w] if h else None
            if left is None and above is None:
                out.append(float("inf"))
                continue
            guess = above if left is None else left
            if left is not None and above is not None:
                corner = x[h - 1, w - 1]
                if apart(corner, left) <= threshold < apart(corner, above):
                    guess = above
            out.append(apart(x[h, w], guess))
    return out


@pytest.mark.parametrize("threshold", [0.0, 1.0])
def test_pixel_prune(threshold):
    method = lftr.methods.PixelPrune(threshold=threshold)
    for seed in range(6):
        draw = torch.Generator().manual_seed(seed)
        pixels = torch.randint(0, 3, (2, 5, 6, 2), generator=draw).float()
        tokens = lftr.VisualTokens(pixels.flatten(0, 2), grid=(2, 5, 6))
        wanted = foretold(pixels[0], threshold) + foretold(pixels[1], threshold)
        count = sum(score > threshold for score in wanted)
        chosen = method.select(tokens, "auto")
        assert chosen.index.tolist() == top(wanted, count)
        assert method.select(tokens, 20).index.tolist() == top(wanted, 20)


def test_dart_gives_what_is_left_to_the_first_pivots():
    tokens = item(4, (1, 4, 5))
    method = lftr.methods.Dart(pivots=2, text_pivots=1)
    x = tokens.features / tokens.features.norm(dim=1, keepdim=True)
    own = tokens.features.abs().sum(1).argsort(descending=True)[:2].tolist()
    text = tokens.text_token_embeds[tokens.text_token_embeds.abs().sum(1).argmax()]
    taken = list(own)
    for pivot, quota in zip([x[own[0]], x[own[1]], text], [2, 2, 1], strict=True):
        order = [i for i in (x @ pivot).argsort().tolist() if i not in taken]
        taken += order[:quota]
    assert method.select(tokens, 7).index.tolist() == sorted(taken)
    assert method.select(tokens, 1).index.tolist() == own[:1]


def test_vispruner_by_attention_alone():
    tokens = item(5, (1, 4, 5))
    chosen = lftr.methods.VisPruner(important_ratio=1.0).select(tokens, 6)
    assert chosen.index.equal(lftr.methods.FasterVLM().select(tokens, 6).index)


def test_lftr_by_cls_attention_is_that_attention():
    """Whatever the direction: what the CLS token attends to stays."""
    tokens = item(3, (1, 4, 5))
    expected = top(tokens.cls_attention.mean(0).tolist(), 6)
    for direction in ("far", "near"):
        method = lftr.get_method(
            "lftr", descriptor="cls-attention", direction=direction, diversity=0.0, among="relevant"
        )
        assert method.select(tokens, 6).index.tolist() == expected


@pytest.mark.parametrize("lines_up", [True, False])
def test_lftr_by_the_cls_output_of_each_tile(lines_up):
    """A tile is compared with its own; tokens packed from other tiles with the mean of all."""
    tokens = item(4, (1, 4, 5))
    rows = torch.randn(2 if lines_up else 3, 7)
    tokens = dataclasses.replace(
        tokens, grid=None, tiles=((1, 2, 5), (1, 2, 5)), frame_features=rows
    )
    own = rows.repeat_interleave(10, 0) if lines_up else rows.mean(0, keepdim=True)
    scores = -torch.cosine_similarity(tokens.encoder_features, own)
    method = lftr.get_method("lftr", descriptor="cls", diversity=0.0, among="relevant")
    assert method.select(tokens, 6).index.tolist() == top(scores.tolist(), 6)
    stack = method.select(lftr.VisualTokens.stack([tokens, tokens]), 6)
    assert stack.index.tolist() == [top(scores.tolist(), 6)] * 2


def test_lftr_says_that_the_cls_output_is_of_another_width():
    tokens = dataclasses.replace(item(5, (1, 4, 5)), frame_features=torch.randn(1, 4))
    with pytest.raises(lftr.LftrError, match="frame_features of the encoder features' width 7"):
        lftr.get_method("lftr", descriptor="cls").select(tokens, 6)
