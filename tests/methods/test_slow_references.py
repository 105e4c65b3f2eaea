"""Methods against slow references: plain loops, written from the description of each."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from every import item

import lftr
from lftr.methods.operations.signals import stand_in

seeds = pytest.mark.parametrize("seed", range(4))
counts = pytest.mark.parametrize("keep", [1, 3, 7, 16, 23])
GRID = (1, 4, 6)


def ranked(scores, among=None):
    """Return the tokens of ``among``, by default all, by falling score, ties by place."""
    among = range(len(scores)) if among is None else among
    return sorted(among, key=lambda i: (-float(scores[i]), i))


def cosines(x):
    x = x.double() / x.double().norm(dim=1, keepdim=True).clamp_min(1e-30)
    return x @ x.T


def averaged(x, groups):
    """Return the mean of each group of tokens, in the order of the groups' anchors."""
    return torch.stack([x[members].mean(0) for _, members in sorted(groups.items())])


@seeds
@counts
@pytest.mark.parametrize("runs", [1, 5, 16, 40])
def test_holov(seed, keep, runs):
    tokens = item(seed, GRID)
    attention, cosine = tokens.cls_attention.mean(0), cosines(tokens.features)
    number = min(runs, 24)
    sizes = [24 // number + (p < 24 % number) for p in range(number)]
    members = [list(range(sum(sizes[:p]), sum(sizes[: p + 1]))) for p in range(number)]
    scores = []
    for run in members:
        others = max(len(run) - 1, 1)
        spread = 0.0
        for i in run:
            row = [float(cosine[i, j]) if j != i else 0.0 for j in run]
            spread += sum((c - sum(row) / others) ** 2 for c in row) / others / len(run)
        mean = sum(float(attention[i]) for i in run) / len(run)
        scores.append(mean + 0.09 * spread * mean / (spread + 1e-6))
    counts = [0] * number
    while sum(counts) < keep:
        able = [p for p in range(number) if counts[p] < sizes[p]]
        left, whole = keep - sum(counts), sum(scores[p] for p in able)
        for p in able:
            counts[p] = min(counts[p] + int(scores[p] / whole * left), sizes[p])
        for p in ranked(scores, able):
            if sum(counts) < keep and counts[p] < sizes[p]:
                counts[p] += 1
    kept = [i for run, n in zip(members, counts, strict=True) for i in ranked(attention, run)[:n]]
    chosen = lftr.methods.HoloV(runs=runs).select(tokens, keep)
    assert chosen.index.tolist() == sorted(kept)


@seeds
@counts
@pytest.mark.parametrize(("local", "window"), [(0.5, 2), (0.7, 3), (1.0, 6), (0.0, 1)])
def test_vscan(seed, keep, local, window):
    tokens = item(seed, GRID)
    middle, late = tokens.attention_received_shallow, tokens.cls_attention.mean(0)
    high, wide = max(4 // window, 1), max(6 // window, 1)
    place = [(min(i // 6 // window, high - 1), min(i % 6 // window, wide - 1)) for i in range(24)]
    count = int(keep * local)
    near, full = [], []
    for i in ranked(middle):
        inside = sum(place[j] == place[i] for j in near)
        (near if inside < -(-count // (high * wide)) else full).append(i)
    near = (near + full)[:count]
    far = ranked(late, [i for i in range(24) if i not in near])[: keep - count]
    cosine, groups = cosines(tokens.features), {i: [i] for i in near + far}
    for i in range(24):
        if i not in groups:
            groups[max(sorted(groups), key=lambda j: (float(cosine[i, j]), -j))].append(i)
    chosen = lftr.methods.VScan(local, window).select(tokens, keep)
    assert chosen.index.tolist() == sorted(groups)
    torch.testing.assert_close(chosen.apply(tokens.features), averaged(tokens.features, groups))


def test_vscan_windows_stay_in_their_frame():
    tokens = lftr.VisualTokens(
        torch.ones(16, 2),
        grid=(2, 2, 4),
        attention_received_shallow=torch.arange(16.0),
        cls_attention=torch.ones(1, 16),
    )
    chosen = lftr.methods.VScan(local=1.0, window=2).select(tokens, 4)
    assert chosen.index.tolist() == [5, 7, 13, 15]


@seeds
@counts
@pytest.mark.parametrize("basis", [1, 4, 10])
def test_apet(seed, keep, basis):
    tokens = item(seed, GRID)
    x = tokens.encoder_features.double()
    picks = [int((x - x.mean(0)).norm(dim=1).argmax())]
    while len(picks) < min(basis, keep):
        gaps = [min(float((x[i] - x[j]).norm()) for j in picks) for i in range(24)]
        picks.append(ranked(gaps, [i for i in range(24) if i not in picks])[0])
    factors = torch.linalg.pinv(x[picks].T) @ x.T  # least squares, one column for each token
    errors = (x - factors.T @ x[picks]).norm(dim=1)
    errors = errors.where(errors > 1e-9, 0.0)
    worst = ranked(errors, [i for i in range(24) if i not in picks])[: keep - len(picks)]
    cosine, groups = cosines(x), {i: [i] for i in picks + worst}
    for i in range(24):
        if i not in groups:
            groups[max(worst or picks, key=lambda j: float(cosine[i, j]))].append(i)
    chosen = lftr.methods.ApET(basis).select(tokens, keep)
    assert chosen.index.tolist() == sorted(groups)
    torch.testing.assert_close(chosen.apply(tokens.features), averaged(tokens.features, groups))


@seeds
@counts
def test_prunesid(seed, keep):
    tokens = item(seed, GRID)
    attention, cosine = tokens.cls_attention.mean(0), cosines(tokens.encoder_features)
    samples = tokens.encoder_features.double().sigmoid().T
    _, sizes, entries = torch.linalg.svd(samples - samples.mean(0), full_matrices=False)
    number = max(1, keep // 4)
    entries = entries[:number][sizes[:number] > 1e-5 * sizes[0]].abs()
    groups = [[] for _ in range(number)]
    for i in ranked(attention):
        groups[int(entries[:, i].argmax())].append(i)
    mean = sum(float(cosine[i, j]) for i in range(24) for j in range(i)) / (24 * 23 / 2)
    unlike = []
    for group in groups:
        unlike.append([])
        for i in group:
            if all(cosine[i, j] <= keep / 32 * mean for j in unlike[-1]):
                unlike[-1].append(i)
    most = [min(len(u), 5) for u in unlike]
    while sum(most) < keep:
        most = [min(m + 1, len(g)) for m, g in zip(most, groups, strict=True)]
    least = [min(len(g), 1) for g in groups]
    free, before, quota = keep - sum(least), 0, []
    for g in range(number):
        share = sum(len(u) for u in unlike[: g + 1]) / sum(len(u) for u in unlike)
        border = round(share * free)
        quota.append(min(least[g] + border - before, most[g]))
        before = border
    for g in sorted(range(number), key=lambda g: -len(unlike[g])):
        quota[g] += min(most[g] - quota[g], keep - sum(quota))
    kept = []
    for group, first, count in zip(groups, unlike, quota, strict=True):
        kept += (first + [i for i in group if i not in first])[:count]
    chosen = lftr.methods.PruneSID().select(tokens, keep)
    assert chosen.index.tolist() == sorted(kept)


def tiled(seed, side, rows, columns):
    """Return an item of a thumbnail and stitched tiles, with all evidence."""
    total = side * side + rows * columns
    tokens = item(seed, (1, 1, total))
    return dataclasses.replace(tokens, grid=None, tiles=((1, side, side), (1, rows, columns)))


def views_by_hand(side, rows, columns):
    """Return the tokens of the thumbnail and of each tile, and the thumbnail's tokens per tile."""
    high, wide = math.ceil(rows / side), math.ceil(columns / side)
    top, left = (high * side - rows) // 2, (wide * side - columns) // 2
    views = [list(range(side * side))] + [[] for _ in range(high * wide)]
    for r in range(rows):
        for c in range(columns):
            tile = (r + top) // side * wide + (c + left) // side
            views[1 + tile].append(side * side + r * columns + c)
    below = [[] for _ in range(high * wide)]
    for r in range(side):
        for c in range(side):
            row = min(r // max(side // high, 1), high - 1)
            below[row * wide + min(c // max(side // wide, 1), wide - 1)].append(r * side + c)
    return views, below


def tile_budgets(attention, views, below, keep, temperature):
    """Return the count of each view: floors of shares of the factor at which they sum to keep."""
    powers = [math.exp(sum(float(attention[i]) for i in part) / temperature) for part in below]
    factors = [1.0] + [1 + p / sum(powers) - 1 / len(powers) for p in powers]
    low, high = 0.0, 1e6
    for _ in range(200):
        ratio = (low + high) / 2
        counts = [min(int(len(v) * f * ratio), len(v)) for v, f in zip(views, factors, strict=True)]
        if sum(counts) == keep:
            return counts
        low, high = (ratio, high) if sum(counts) < keep else (low, ratio)
    return None  # several counts change at once


TILED = pytest.mark.parametrize(
    ("side", "rows", "columns"), [(4, 8, 8), (4, 6, 8), (5, 5, 14), (3, 8, 3), (6, 9, 12)]
)


@seeds
@TILED
@pytest.mark.parametrize("temperature", [10.0, 0.1])
def test_globalcom2(seed, side, rows, columns, temperature):
    tokens = tiled(seed, side, rows, columns)
    attention = tokens.cls_attention.mean(0)
    views, below = views_by_hand(side, rows, columns)
    small = attention[: side * side].view(1, 1, side, side)
    resized = torch.nn.functional.interpolate(small, (rows, columns), mode="bilinear").flatten()
    for keep in (5, 17, tokens.count // 2, tokens.count - 3):
        counts = tile_budgets(attention, views, below, keep, temperature)
        if counts is None:
            continue
        kept = ranked(attention, views[0])[: counts[0]]
        for view, count in zip(views[1:], counts[1:], strict=True):
            own = {i: float(attention[i]) for i in view}
            other = {i: float(resized[i - side * side]) for i in view}
            lengths = [math.sqrt(sum(s * s for s in part.values())) for part in (own, other)]
            both = {i: own[i] / lengths[0] + other[i] / lengths[1] for i in view}
            kept += sorted(view, key=lambda i: (-both[i], i))[:count]
        chosen = lftr.methods.GlobalCom2(temperature).select(tokens, keep)
        assert chosen.index.tolist() == sorted(kept)
        assert not chosen.notes


@seeds
@TILED
@pytest.mark.parametrize("inner", ["divprune", "visionzip", "lftr", "pool"])
def test_per_tile(seed, side, rows, columns, inner):
    tokens = tiled(seed, side, rows, columns)
    views, below = views_by_hand(side, rows, columns)
    method = lftr.methods.PerTile(inner, temperature=0.1)
    for keep in (17, tokens.count // 2):
        counts = tile_budgets(tokens.cls_attention.mean(0), views, below, keep, 0.1)
        if counts is None:
            continue
        index, slots = [], {}
        for view, count in zip(views, counts, strict=True):
            if count:
                wide = len({(i - side * side) % columns for i in view})
                grid = (1, side, side) if view is views[0] else (1, len(view) // wide, wide)
                part = dataclasses.replace(tokens.take(torch.tensor(view)), grid=grid)
                chosen = lftr.get_method(inner).select(
                    dataclasses.replace(part, _coordinates=None), count
                )
                index += [view[i] for i in chosen.index.tolist()]
                slots |= dict(zip(index[-count:], chosen.apply(part.features), strict=True))
        chosen = method.select(tokens, keep)
        assert chosen.index.tolist() == sorted(index)
        torch.testing.assert_close(
            chosen.apply(tokens.features), torch.stack([slots[i] for i in sorted(index)])
        )
        stack = lftr.VisualTokens.stack([tokens, tiled(seed + 9, side, rows, columns)])
        assert method.select(stack, keep).item(0).index.equal(chosen.index)


@pytest.mark.parametrize("method", ["globalcom2", lftr.methods.PerTile("divprune")])
@pytest.mark.parametrize(
    "tiles",
    [((1, 4, 4), (1, 4, 4)), ((1, 2, 4), (1, 6, 4)), ((1, 4, 4),) * 3, ((1, 4, 4), (1, 1, 9))],
)
def test_tiles_that_are_not_known_are_one_view(method, tiles):
    total = sum(rows * columns for _, rows, columns in tiles)
    tokens = dataclasses.replace(item(5, (1, 1, total)), grid=None, tiles=tiles)
    method = lftr.get_method(method) if isinstance(method, str) else method
    chosen = method.select(tokens, 9)
    assert any("no thumbnail" in note for note in chosen.notes)
    one = dataclasses.replace(tokens, tiles=None, grid=(1, 1, total))
    assert chosen.index.equal(method.select(one, 9).index)
    assert not method.select(one, 9).notes


def test_a_view_without_attention_is_scored_by_its_mean():
    tokens = dataclasses.replace(tiled(3, 4, 8, 8), cls_attention=None)
    x = torch.nn.functional.normalize(tokens.encoder_features, dim=1)
    scores = -(x[:16] @ torch.nn.functional.normalize(x[:16].mean(0), dim=0))
    chosen = lftr.methods.GlobalCom2().select(tokens, 40)
    small = [i for i in chosen.index.tolist() if i < 16]
    assert small == sorted(ranked(scores)[: len(small)])
    assert chosen.notes == stand_in("encoder_features", "cls_attention", "unlikeness in ")


def asked(tokens):
    """Return the negated cosine of each token with the text, the mean over its segments."""
    text = torch.nn.functional.normalize(tokens.text_embeds, dim=1).mean(0)
    return -torch.nn.functional.normalize(tokens.visual_projected, dim=1) @ text


@seeds
@pytest.mark.parametrize("keep", [1, 3, 5])
@pytest.mark.parametrize("alpha", [0.0, 1.0, 2.5])
def test_resprune(seed, keep, alpha):
    """Up to the width of the features; beyond, no token has a residual."""
    tokens = item(seed, GRID)
    x, weight = tokens.features.double(), ((1 + asked(tokens)) / 2) ** alpha
    picks = []
    for _ in range(keep):
        span = x[picks].T
        left = x - (span @ torch.linalg.pinv(span) @ x.T).T if picks else x
        gains = left.square().sum(1) * weight
        picks.append(ranked(gains, [i for i in range(24) if i not in picks])[0])
    chosen = lftr.methods.ResPrune(alpha).select(tokens, keep)
    assert chosen.index.tolist() == sorted(picks)


def test_resprune_without_alpha_needs_no_text():
    tokens = item(0, GRID)
    assert lftr.methods.ResPrune(0.0).evidence == ()
    bare = lftr.VisualTokens(tokens.features, grid=GRID)
    chosen = lftr.methods.ResPrune(0.0).select(bare, 5)
    assert chosen.index.equal(lftr.methods.ResPrune(0.0).select(tokens, 5).index)
    assert not chosen.notes


def farthest(x, picks, count, weight):
    """Return ``picks`` and ``count`` more, each of the largest weight times distance to those."""
    cosine, picks = cosines(x), list(picks)
    for _ in range(count):
        gains = [
            float(w) * (1 - max(float(cosine[i, j]) for j in picks)) for i, w in enumerate(weight)
        ]
        picks.append(ranked(gains, [i for i in range(len(x)) if i not in picks])[0])
    return picks


@seeds
@counts
@pytest.mark.parametrize("alpha", [0.0, 1.0, 0.4])
def test_score(seed, keep, alpha):
    tokens = item(seed, GRID)
    attention = tokens.cls_attention.mean(0)
    picks = farthest(
        tokens.encoder_features, [ranked(attention)[0]], keep - 1, attention.double() ** alpha
    )
    chosen = lftr.methods.SCoRe(alpha).select(tokens, keep)
    assert chosen.index.tolist() == sorted(picks)


@seeds
@counts
@pytest.mark.parametrize(("focus", "text_weight"), [(0.5, 0.5), (0.0, 1.0), (0.8, 0.2), (1.0, 0.0)])
def test_fsr(seed, keep, focus, text_weight):
    tokens = item(seed, GRID)
    parts = [asked(tokens), tokens.cls_attention.mean(0)]
    parts = [(part - part.min()) / (part.max() - part.min()) for part in parts]
    scores = text_weight * parts[0] + (1 - text_weight) * parts[1]
    first = ranked(scores)[: max(1, int(keep * focus))]
    picks = farthest(tokens.encoder_features, first, keep - len(first), [1.0] * 24)
    cosine, groups = cosines(tokens.encoder_features), {i: [i] for i in picks}
    scan = picks[len(first) :]
    for i in range(24):
        if i not in picks and scan:
            groups[max(scan, key=lambda j: float(cosine[i, j]))].append(i)
    chosen = lftr.methods.FSR(focus, text_weight).select(tokens, keep)
    assert chosen.index.tolist() == sorted(picks)
    torch.testing.assert_close(chosen.apply(tokens.features), averaged(tokens.features, groups))


@seeds
@counts
@pytest.mark.parametrize("weights", [(), (0.2, 0.0, 3.0)])
def test_hawk(seed, keep, weights):
    tokens = item(seed, GRID)
    scores = [0.0] * 24
    for head, weight in zip(tokens.text_products.tolist(), weights or (1, 1, 1), strict=True):
        length = math.sqrt(sum(one * one for one in head))
        scores = [score + weight * one / length for score, one in zip(scores, head, strict=True)]
    chosen = lftr.methods.HAWK(weights=weights).select(tokens, keep)
    assert chosen.index.tolist() == sorted(ranked(scores)[:keep])


def test_hawk_needs_a_weight_for_each_head():
    with pytest.raises(lftr.ArgumentError, match=r"weights = \(1.0, 2.0\).*3, one for each head"):
        lftr.methods.HAWK(weights=(1.0, 2.0)).select(item(0, GRID), 5)


@seeds
@counts
@pytest.mark.parametrize(
    ("rounds", "penalty", "quantile"), [(12, 2.0, 0.998), (1, 1.0, 0.5), (3, 4.0, 0.8)]
)
def test_ficoco(seed, keep, rounds, penalty, quantile):
    tokens = item(seed, GRID)
    attention, received = tokens.cls_attention.mean(0), tokens.attention_received
    value = [
        0.35 * float(a / attention.norm()) - 0.65 * float(b / received.norm())
        for a, b in zip(attention, received, strict=True)
    ]
    left, gone = list(range(24)), []
    for step in range(rounds):
        worth = {i: value[i] for i in left}
        for row in range(2):
            for column in range(3):
                corner = row * 12 + column * 2
                inside = [i for i in (corner, corner + 1, corner + 6, corner + 7) if i in worth]
                if inside:
                    lowest = min(inside, key=lambda i: value[i])
                    worth[lowest] *= penalty if value[lowest] < 0 else 1 / penalty
        end = (24 - keep) * (step + 1) // rounds
        gone += sorted(left, key=lambda i: worth[i])[: end - len(gone)]
        left = [i for i in left if i not in gone]
    chosen = lftr.methods.FiCoCo(rounds=rounds, penalty=penalty, quantile=quantile).select(
        tokens, keep
    )
    assert chosen.index.tolist() == left
    cosine, x = cosines(tokens.keys), tokens.features.double()
    slots, load = {i: x[i].clone() for i in left}, dict.fromkeys(left, 1.0)
    number = max(1, keep - 1 - math.floor(quantile * (keep - 1)))
    for i in gone:
        targets = sorted(left, key=lambda j: -float(cosine[i, j]))[:number]
        parts = [math.exp(float(cosine[i, j])) for j in targets]
        for j, part in zip(targets, parts, strict=True):
            slots[j] += part / sum(parts) * x[i]
            load[j] += part / sum(parts)
    wanted = torch.stack([slots[i] / load[i] for i in left]).float()
    torch.testing.assert_close(chosen.apply(tokens.features), wanted, rtol=1e-4, atol=1e-5)
