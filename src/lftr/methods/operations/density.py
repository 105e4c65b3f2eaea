"""Density peaks (DPC-kNN), without the random noise that programs add to densities."""

from __future__ import annotations

import torch
from torch import Tensor

from ...values.indexing import take
from .similarity import BLOCK

HELD = 1 << 22  # distances of a stack that are held at once


def density_peaks(x: Tensor, count: int, neighbours: int = 5) -> Tensor:
    """Return the tokens ``(B, count)`` in dense regions, far from any denser token, best first.

    See `peak_scores`; ties go to the earlier.

    Parameters
    ----------
    x : Tensor, shape (B, N, C)
    count : int
        Tokens to return, at most N.
    neighbours : int
        How many nearest tokens make the density.
    """
    scores = peak_scores(x, neighbours)
    return scores.argsort(dim=1, descending=True, stable=True)[:, :count]


def peak_scores(x: Tensor, neighbours: int | Tensor = 5, members: Tensor | None = None) -> Tensor:
    """Return how much of a density peak each token is, ``(B, N)``.

    Density is ``exp(-mean d^2)`` over the nearest tokens (itself included), ``d`` the Euclidean
    distance over ``sqrt(C)``; the score is density times the distance to the nearest denser token,
    for the densest the farthest of all. Of equally dense tokens the earlier counts as denser, so
    that the result is the same every time. Distances of many tokens are computed in blocks, so that
    memory stays linear in N.

    Parameters
    ----------
    x : Tensor, shape (B, N, C)
    neighbours : int or Tensor of int64, shape (B,)
        How many nearest tokens make the density, at least 1; all, where there are fewer.
    members : Tensor of bool, shape (B, N), optional
        The tokens that take part; the others' score is minus infinity.

    Notes
    -----
    Rodriguez and Laio, "Clustering by fast search and find of density peaks", 2014; its kNN form is
    that of Du et al., arXiv 1607.02203.
    """
    total = x.shape[1]
    limit = torch.as_tensor(neighbours, device=x.device).expand(len(x))
    if members is None:
        return _scores(x.float(), limit, None)
    step = max(1, HELD // (total * min(total, BLOCK)))
    parts = zip(x.split(step), limit.split(step), members.split(step), strict=True)
    return torch.cat([_scores(some.float(), near, inside) for some, near, inside in parts])


def _scores(x: Tensor, neighbours: Tensor, members: Tensor | None) -> Tensor:
    total, scale = x.shape[1], x.shape[2] ** -0.5
    starts = range(0, total, BLOCK)

    def computed(start: int) -> Tensor:
        distance = torch.cdist(x[:, start : start + BLOCK], x).mul_(scale)
        if members is not None:
            distance.masked_fill_(~members.unsqueeze(1), torch.inf)
        return distance

    one = computed(0) if len(starts) == 1 else None  # else computed twice, a block at a time

    def distances(start: int) -> Tensor:
        return computed(start) if one is None else one

    near = min(int(neighbours.max()), total)
    nearest = [distances(i).topk(near, dim=2, largest=False).values.square() for i in starts]
    number = neighbours.clamp_max(near)
    if members is not None:
        number = torch.minimum(number, members.sum(dim=1).clamp_min(1))
    beyond = torch.arange(near, device=x.device) >= number[:, None, None]
    known = [part.masked_fill_(beyond, 0.0).sum(dim=2) for part in nearest]
    sparsity = torch.cat(known, dim=1) / number[:, None]
    digits, exponent = sparsity.frexp()  # what differs by rounding alone is equally dense
    level = torch.ldexp((digits * 2**16).round(), exponent)
    if members is not None:
        level = level.masked_fill(~members, torch.inf)
    rank = level.argsort(dim=1, stable=True).argsort(dim=1)
    gaps = []
    for i in starts:
        distance = distances(i)
        denser = rank.unsqueeze(1) < rank[:, i : i + BLOCK].unsqueeze(2)
        gap = distance.masked_fill(~denser, torch.inf).amin(dim=2)
        farthest = distance.masked_fill(distance.isinf(), 0.0) if members is not None else distance
        gaps.append(gap.where(gap.isfinite(), farthest.amax(dim=2)))
    score = torch.exp(-sparsity) * torch.cat(gaps, dim=1)
    return score if members is None else score.masked_fill(~members, -torch.inf)


def join_peaks(x: Tensor, peaks: Tensor) -> Tensor:
    """Return the nearest peak ``(B, N)`` of each token by Euclidean distance; peaks are their own.

    Parameters
    ----------
    x : Tensor, shape (B, N, C)
    peaks : Tensor of bool, shape (B, N)
        Which tokens are peaks; where there is none, any token is returned.
    """
    total = x.shape[1]
    place = torch.arange(total, device=x.device)
    most = max(1, int(peaks.sum(dim=1).max()))
    index = (~peaks).int().argsort(dim=1, stable=True)[:, :most]  # peaks first, in order
    step = max(1, HELD // (total * most))
    leaders = []
    for some, there, centre in zip(
        x.split(step), peaks.split(step), index.split(step), strict=True
    ):
        distance = torch.cdist(some.float(), take(some.float(), centre, 1))
        able = there.gather(1, centre).unsqueeze(1)
        nearest = distance.masked_fill_(~able, torch.inf).argmin(dim=2)
        leaders.append(torch.where(there, place, centre.gather(1, nearest)))
    return torch.cat(leaders)
