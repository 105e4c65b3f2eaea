"""Methods for clips against slow programs written from their descriptions, in plain Python."""

from __future__ import annotations

import math

import pytest
from every import item

import lftr
from lftr.methods import VCast

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
