"""Methods against slow references: plain loops, written from the description of each."""

from __future__ import annotations

import pytest
import torch
from every import item

import lftr

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
