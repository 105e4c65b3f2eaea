"""Methods for clips against slow programs written from their descriptions, in plain Python."""

from __future__ import annotations

import dataclasses
import itertools
import math

import pytest
import torch
from every import item

import lftr
from lftr.methods import AOT, FlashVID, SemVID, VCast
from lftr.methods.operations.apportion import apportion

GRIDS = [(1, 3, 4), (2, 3, 3), (5, 3, 4), (8, 2, 3)]


def length(x):
    return math.sqrt(sum(a * a for a in x))


def cosine(x, y, least=1e-12):
    inner = sum(a * b for a, b in zip(x, y, strict=True))
    return inner / (max(length(x), least) * max(length(y), least))


def mean(rows):
    return [sum(column) / len(rows) for column in zip(*rows, strict=True)]


def frames_of(tokens):
    """Return the features of a clip as lists: frames of tokens of channels."""
    return tokens.features.unflatten(0, (tokens.grid[0], -1)).tolist()


def best(scores, keep):
    """Return the indices of the highest scores; the earlier of equal ones."""
    return sorted(range(len(scores)), key=lambda i: -scores[i])[:keep]


def vcast(tokens, keep):
    frames, size = frames_of(tokens), tokens.grid[1] * tokens.grid[2]
    means = [mean(frame) for frame in frames]
    means = [[a / length(one) for a in one] for one in means]
    bend = [1.0] * len(frames)
    for t in range(1, len(frames) - 1):
        come = [a - b for a, b in zip(means[t], means[t - 1], strict=True)]
        go = [a - b for a, b in zip(means[t + 1], means[t], strict=True)]
        bend[t] = 1 - cosine(come, go)
    weights = [math.exp(one / 0.7) for one in bend]
    weights = [one / sum(weights) for one in weights]
    if keep < len(frames):
        counts = [int(t in best(weights, keep)) for t in range(len(frames))]
    else:
        claims = [one * (keep - len(frames)) for one in weights]
        counts = [1 + min(math.floor(claim), size - 1) for claim in claims]
        while sum(counts) < keep:
            rest = [
                claim - math.floor(claim) if count < size else -1
                for claim, count in zip(claims, counts, strict=True)
            ]
            counts[best(rest, 1)[0]] += 1
    chosen = []
    for t, frame in enumerate(frames):
        norms = [length(token) for token in frame]
        spread = max(norms) - min(norms) + 1e-6
        scores = [
            1 - cosine(token, means[t]) + (norm - min(norms)) / spread
            for token, norm in zip(frame, norms, strict=True)
        ]
        chosen += [t * size + i for i in best(scores, counts[t])]
    return sorted(chosen)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("seed", range(4))
def test_vcast(seed, grid):
    tokens = item(seed, grid)
    for keep in range(1, tokens.count):
        assert VCast().select(tokens, keep).index.tolist() == vcast(tokens, keep)


def test_vcast_keeps_more_where_the_clip_turns():
    tokens = item(0, (7, 4, 4))
    still = tokens.features[:16].repeat(7, 1)
    still[48:64] += tokens.features[16:32]  # one frame of something else
    tokens = lftr.VisualTokens(still, grid=(7, 4, 4))
    counts = (VCast().select(tokens, 28).index // 16).bincount(minlength=7)
    assert counts.argmax() == 3
    assert counts.min() >= 1


def divided(total, weights, limits=None):
    """Divide slots by weights, rounded down; the largest remainders get one more each."""
    limits = [total] * len(weights) if limits is None else limits
    counts = [0] * len(weights)
    while sum(counts) < total:
        room = [limit - count for limit, count in zip(limits, counts, strict=True)]
        active = [weight if free else 0.0 for weight, free in zip(weights, room, strict=True)]
        if sum(active) < 1e-8:
            active = [float(free > 0) for free in room]
        left = total - sum(counts)
        claims = [weight / sum(active) * left for weight in active]
        shares = [math.floor(claim) for claim in claims]
        rest = [
            claim - share if free else -1.0
            for claim, share, free in zip(claims, shares, room, strict=True)
        ]
        for i in best(rest, left - sum(shares)):
            shares[i] += 1
        counts = [
            count + min(share, free)
            for count, share, free in zip(counts, shares, room, strict=True)
        ]
    return counts


def apart(x, y):
    return length([a - b for a, b in zip(x, y, strict=True)])


def semvid(tokens, keep, threshold):
    frames, size = frames_of(tokens), tokens.grid[1] * tokens.grid[2]
    text = tokens.text_token_embeds.tolist()
    means = [mean(frame) for frame in frames]
    means = [[a / length(one) for a in one] for one in means]
    near = []
    for one in means:
        highest = sorted((cosine(one, word) for word in text), reverse=True)[:2]
        near.append(sum(highest) / len(highest))
    moved = [apart(means[t], means[t - 1]) for t in range(1, len(means))]
    moved = moved[:1] + moved if moved else [0.0]
    weights = [0.7 * max(a, 0.0) + 0.3 * b for a, b in zip(near, moved, strict=True)]
    if keep < len(frames):
        counts = [int(t in best(weights, keep)) for t in range(len(frames))]
    else:
        starts = [0]
        starts += [t for t in range(1, len(means)) if cosine(means[t], means[t - 1]) < threshold]
        ends = [*starts[1:], len(means)]
        worth = [sum(near[a:b]) / (b - a) for a, b in zip(starts, ends, strict=True)]
        positive = [max(one, 0.0) for one in worth]
        if sum(positive) < 1e-8:
            positive = [one - min(worth) + 1e-6 for one in worth]
        counts = []
        for a, b, share in zip(starts, ends, divided(keep - len(frames), positive), strict=True):
            counts += [1 + more for more in divided(share, weights[a:b])]
        counts = [min(count, size) for count in counts]
        slack = [size - count for count in counts]
        claims = [weight * free for weight, free in zip(weights, slack, strict=True)]
        more = divided(keep - sum(counts), claims, slack)
        counts = [count + one for count, one in zip(counts, more, strict=True)]
    chosen = []
    for t, frame in enumerate(frames):
        if not counts[t]:
            continue
        like = [[cosine(token, word) for word in text] for token in frame]
        picked = best([cosine(token, means[t]) for token in frame], 1)
        objects = round((counts[t] - 1) * 0.6)
        present = [max(0.0, *(row[w] for row in like)) for w in range(len(text))]
        shares = divided(objects, present)
        for word in best(present, len(text)):
            these = []
            for _ in range(shares[word]):
                free = [i for i in range(size) if i not in picked]
                value = [
                    0.9 * like[i][word]
                    - 0.1 * max((cosine(frame[i], frame[j]) for j in these), default=0.0)
                    for i in free
                ]
                these.append(free[best(value, 1)[0]])
                picked.append(these[-1])
        free = [i for i in range(size) if i not in picked]
        around = [s for s in (t - 1, t + 1) if 0 <= s < len(frames)]
        change = [
            sum(apart(frame[i], frames[s][i]) for s in around) / max(1, len(around)) for i in free
        ]
        said = [max(0.0, *like[i]) for i in free]
        most = [max(max(one, default=0.0), 1e-6) for one in (change, said)]
        value = [a / most[0] / 2 + b / most[1] / 2 for a, b in zip(change, said, strict=True)]
        picked += [free[i] for i in best(value, counts[t] - len(picked))]
        chosen += [t * size + i for i in picked]
    return sorted(chosen)


@pytest.mark.parametrize("threshold", [0.0, 0.8])
@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_semvid(seed, grid, threshold):
    tokens = item(seed, grid)
    method = SemVID(threshold=threshold)
    for keep in range(1, tokens.count):
        assert method.select(tokens, keep).index.tolist() == semvid(tokens, keep, threshold)


def plain_peaks(x, count):
    """Return the density peaks of some tokens, and the nearest peak of each token.

    Of equally dense tokens, the earlier counts as denser.
    """
    scale = len(x[0]) ** 0.5
    distance = [[apart(a, b) / scale for b in x] for a in x]
    near = min(count, 7, len(x))
    density = [math.exp(-sum(d * d for d in sorted(row)[:near]) / near) for row in distance]
    score = []
    for i, row in enumerate(distance):
        denser = [row[j] for j in range(len(x)) if (density[j], -j) > (density[i], -i)]
        score.append(density[i] * min(denser, default=max(row)))
    peaks = sorted(best(score, count))
    return peaks, [
        i if i in peaks else min(peaks, key=lambda peak: distance[i][peak]) for i in range(len(x))
    ]


def ceiled(total, claims):
    """Divide slots by the smallest factor at which ``ceil(claim * factor)`` sum up to them."""
    counts = [0] * len(claims)
    for _ in range(total):
        worth = [
            claim / max(count, 1e-9) if count < claim else -1.0
            for claim, count in zip(claims, counts, strict=True)
        ]
        counts[best(worth, 1)[0]] += 1
    return counts


def flashvid(tokens, keep, least):
    frames, size = frames_of(tokens), tokens.grid[1] * tokens.grid[2]
    count = len(frames)
    attention = tokens.cls_attention.mean(dim=0).unflatten(0, (count, -1)).tolist()
    first = math.ceil(keep // count * 0.7)
    kept = []
    for frame, weight in zip(frames, attention, strict=True):
        picked = []
        for _ in range(first):
            rivals = picked or range(size)
            value = [
                -1.0
                if i in picked
                else weight[i] * min(1 - cosine(frame[i], frame[j]) for j in rivals if j != i)
                for i in range(size)
            ]
            picked += best(value, 1)
        kept.append(picked)
    means = [mean(frame) for frame in frames]
    like = [cosine(a, b) for a, b in itertools.pairwise(means)]
    cuts = set(best([-one for one in like], min(least, count) - 1))
    cuts |= {t for t, one in enumerate(like) if one < 0.9}
    starts = [0, *(t + 1 for t in sorted(cuts))]
    ends = [*starts[1:], count]
    spans = list(zip(starts, ends, strict=True))
    slots = apportion(
        keep - first * count,
        torch.tensor([[b - a for a, b in spans]]),
        torch.tensor([[(b - a) * (size - first) for a, b in spans]]),
    )[0].tolist()
    members = {}
    for t in range(count):
        for i in kept[t]:
            members[t, i] = [[(t, i)]]
    for (a, b), number in zip(spans, slots, strict=True):
        if not number:
            continue
        link = {}
        for t in range(a + 1, b):
            for i in set(range(size)) - set(kept[t]):
                rivals = [j for j in range(size) if j not in kept[t - 1]]
                j = max(rivals, key=lambda j: cosine(frames[t][i], frames[t - 1][j]))
                link[t, i] = cosine(frames[t][i], frames[t - 1][j]), (t - 1, j)
        joins = {token for token, (similar, _) in link.items() if similar > 0.8}
        most = (b - a) * (size - first) - number
        if len(joins) > most:  # fewer would be left than slots
            ranked = sorted((similar for similar, _ in link.values()), reverse=True)
            bound = ranked[most - 1] if most else math.inf
            joins = {token for token, (similar, _) in link.items() if similar > bound}
        trees = {}
        for t in range(a, b):
            for i in range(size):
                root = (t, i)
                while root in joins:
                    root = link[root][1]
                if i not in kept[t]:
                    trees.setdefault(root, []).append((t, i))
        left = [[i for i in range(size) if (t, i) in trees] for t in range(a, b)]
        for t, here, clusters in zip(
            range(a, b), left, ceiled(number, [len(one) for one in left]), strict=True
        ):
            if clusters:
                merged = [mean([frames[s][j] for s, j in trees[t, i]]) for i in here]
                _, leaders = plain_peaks(merged, clusters)
                for i, leader in zip(here, leaders, strict=True):
                    members.setdefault((t, here[leader]), []).append(trees[t, i])
    index = sorted(members)
    features = [
        mean([mean([frames[s][j] for s, j in tree]) for tree in members[token]]) for token in index
    ]
    return [t * size + i for t, i in index], torch.tensor(features)


@pytest.mark.parametrize("least", [1, 3])
@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_flashvid(seed, grid, least):
    tokens = item(seed, grid)
    x = tokens.features.unflatten(0, (grid[0], -1))
    x = x[:1] + 0.1 * x * torch.arange(1, x.shape[1] + 1)[:, None]  # some tokens hardly change
    tokens = dataclasses.replace(tokens, features=x.flatten(0, 1))
    for keep in range(1, tokens.count):
        chosen = FlashVID(segments=least).select(tokens, keep)
        index, features = flashvid(tokens, keep, least)
        assert chosen.index.tolist() == index
        torch.testing.assert_close(chosen.apply(tokens.features), features, rtol=1e-4, atol=1e-5)


def transport(cost):
    """Return Sinkhorn's plan between equal masses, row by row."""
    kernel = [[math.exp(-one / 0.1) for one in row] for row in cost]
    left, right = [1.0] * len(cost), [1.0] * len(cost[0])
    for _ in range(100):
        left = [
            1 / len(left) / sum(k * b for k, b in zip(row, right, strict=True)) for row in kernel
        ]
        right = [
            1 / len(right) / sum(row[j] * a for row, a in zip(kernel, left, strict=True))
            for j in range(len(right))
        ]
    return [
        [a * k * b for k, b in zip(row, right, strict=True)]
        for a, row in zip(left, kernel, strict=True)
    ]


def combined(rows, weights):
    """Return the mean of rows of channels by weights."""
    total = sum(weights)
    return [
        sum(w * a for w, a in zip(weights, column, strict=True)) / total
        for column in zip(*rows, strict=True)
    ]


def aot(tokens, keep, segments, rest):
    frames = frames_of(tokens)
    count, height, width = tokens.grid
    size = height * width
    middle = tokens.attention_received_shallow.unflatten(0, (count, -1)).tolist()
    late = tokens.cls_attention.mean(dim=0).unflatten(0, (count, -1)).tolist()
    number = min(segments, count, keep)
    starts = [count * i // number for i in range(number)]
    others = [t for t in range(count) if t not in starts]
    anchors = 1
    while anchors < size and (
        number * anchors + len(others) * math.ceil(rest * (anchors - 1)) < keep
    ):
        anchors += 1
    claims = torch.tensor([[1.0] * number + [rest] * len(others)])
    shares = apportion(keep, claims, torch.tensor([anchors]))[0].tolist()
    counts = dict(zip([*starts, *others], shares, strict=True))

    def gathered(t, many):
        side = max(1, min(height, width) // 3)
        high, wide = max(1, height // side), max(1, width // side)
        place = [
            (min(i // width // side, high - 1), min(i % width // side, wide - 1))
            for i in range(size)
        ]
        near, full = [], []
        local = int(many * 0.5)
        for i in best(middle[t], size):
            inside = sum(place[j] == place[i] for j in near)
            (near if inside < -(-local // (high * wide)) else full).append(i)
        near = (near + full)[:local]
        far = best([-1.0 if i in near else late[t][i] for i in range(size)], many - local)
        picked = sorted(near + far)
        loose = [i for i in range(size) if i not in picked]
        x = frames[t]
        if not loose or not picked:
            return picked, [x[i] for i in picked]
        where = [
            (i // width / max(height - 1, 1), i % width / max(width - 1, 1)) for i in range(size)
        ]
        alike = [[cosine(x[i], x[j]) for j in picked] for i in loose]
        cost = [
            [1 - alike[a][b] + 0.5 * apart(where[i], where[j]) for b, j in enumerate(picked)]
            for a, i in enumerate(loose)
        ]
        plan = transport(cost)
        states = []
        for b, j in enumerate(picked):
            moved = combined([x[j], *(x[i] for i in loose)], [1.0, *(row[b] for row in plan)])
            joined = mean([x[j], *(x[i] for a, i in enumerate(loose) if best(alike[a], 1) == [b])])
            states.append([0.9 * m + 0.1 * n for m, n in zip(moved, joined, strict=True)])
        return picked, states

    slots = {}
    for start, end in zip(starts, [*starts[1:], count], strict=True):
        first, key = gathered(start, counts[start])
        for t in range(start + 1, end):
            picked, states = gathered(t, anchors)
            cost = [[1 - cosine(x, y) for y in key] for x in states]
            least = min(map(min, cost))
            time = 1 - math.exp(-((t - start) ** 2) / 4.5)
            plan = transport([[(one - least) * time for one in row] for row in cost])
            parts = [[one / sum(row) for one in row] for row in plan]
            order = sorted(range(len(parts)), key=lambda i: round(max(parts[i]) * 2**24))
            for i in order[: counts[t]]:
                slots[t * size + picked[i]] = states[i]
            go = order[counts[t] :]
            key = [
                combined([y, *(states[i] for i in go)], [1.0, *(parts[i][b] for i in go)])
                for b, y in enumerate(key)
            ]
        slots |= {start * size + i: state for i, state in zip(first, key, strict=True)}
    index = sorted(slots)
    return index, torch.tensor([slots[i] for i in index])


@pytest.mark.parametrize(("segments", "rest"), [(2, 0.3), (8, 1.0), (1, 0.0)])
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_aot(grid, segments, rest):
    tokens = item(1, grid)
    for keep in range(1, tokens.count, 4):
        chosen = AOT(segments=segments, rest=rest).select(tokens, keep)
        index, features = aot(tokens, keep, segments, rest)
        assert chosen.index.tolist() == index
        torch.testing.assert_close(chosen.apply(tokens.features), features, rtol=1e-4, atol=1e-5)
