"""Density peaks (DPC-kNN), without the random noise that programs add to densities."""

from __future__ import annotations

import torch
from torch import Tensor

from .apportion import highest
from .similarity import BLOCK

FEW = 25  # tokens up to which differences are squared, which is more exact than products
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
    limit = torch.as_tensor(neighbours, device=x.device).expand(len(x))
    if members is None:
        return _scores(_Distances(x.float(), None), limit)
    parts = zip(_few(x), limit.split(step := _step(x)), members.split(step), strict=True)
    return torch.cat([_scores(_Distances(some, inside), near) for some, near, inside in parts])


def peak_clusters(x: Tensor, neighbours: int | Tensor, members: Tensor, counts: Tensor) -> Tensor:
    """Return the peak ``(B, N)`` that leads each token; peaks lead themselves.

    Peaks are the members with the highest `peak_scores`, and every token goes to the nearest by
    Euclidean distance. Where there are no peaks, and for tokens that are no members, any token is
    returned.

    Parameters
    ----------
    x, neighbours, members
        See `peak_scores`.
    counts : Tensor of int64, shape (B,)
        How many peaks each item has.
    """
    limit = torch.as_tensor(neighbours, device=x.device).expand(len(x))
    leaders = []
    step = _step(x)
    for some, near, inside, count in zip(
        _few(x), limit.split(step), members.split(step), counts.split(step), strict=True
    ):
        distances = _Distances(some, inside)
        peaks = highest(_scores(distances, near), count)
        leaders.append(distances.nearest(peaks))
    return torch.cat(leaders)


class _Distances:
    """Euclidean distances over ``sqrt(C)`` of a stack ``(B, N, C)``, held if they are few.

    Otherwise they are computed in blocks, again for each use, so that memory stays linear in N.
    Tokens that are not among ``members`` ``(B, N)`` are infinitely far from all.
    """

    def __init__(self, x: Tensor, members: Tensor | None) -> None:
        self.x = x
        self.members = members
        self.square = x.norm(dim=2).square()
        total = x.shape[1]
        self.starts = range(0, total, total if total * total <= HELD else BLOCK)
        self._held = self._computed(0) if len(self.starts) == 1 else None

    def block(self, start: int) -> Tensor:
        """Return the distances ``(B, n, N)`` of the tokens of the block that begins there."""
        return self._computed(start) if self._held is None else self._held

    def nearest(self, peaks: Tensor) -> Tensor:
        """Return the nearest peak ``(B, N)`` of each token; peaks ``(B, N)`` are their own."""
        place = torch.arange(self.x.shape[1], device=self.x.device)
        able = ~peaks.unsqueeze(1)
        parts = [
            self.block(start).masked_fill(able, torch.inf).argmin(dim=2) for start in self.starts
        ]
        return torch.where(peaks, place, torch.cat(parts, dim=1))

    def _computed(self, start: int) -> Tensor:
        some = slice(start, start + self.starts.step)
        if self.x.shape[1] <= FEW:
            distance = torch.cdist(self.x[:, some], self.x)
        else:
            sums = self.square[:, some, None] + self.square[:, None]
            distance = torch.baddbmm(sums, self.x[:, some], self.x.mT, alpha=-2)
            distance.diagonal(start, dim1=1, dim2=2).zero_()
            distance = distance.clamp_min_(0.0).sqrt_()
        distance.mul_(self.x.shape[2] ** -0.5)
        if self.members is not None:
            distance.masked_fill_(~self.members.unsqueeze(1), torch.inf)
        return distance


def _step(x: Tensor) -> int:
    """Return the number of items whose distances are held in memory at once."""
    total = x.shape[1]
    return max(1, HELD // (total * (total if total * total <= HELD else BLOCK)))


def _few(x: Tensor) -> list[Tensor]:
    return [some.float() for some in x.split(_step(x))]


def _scores(distances: _Distances, neighbours: Tensor) -> Tensor:
    members, total = distances.members, distances.x.shape[1]
    near = min(int(neighbours.max()), total)
    nearest = [
        distances.block(i).topk(near, dim=2, largest=False).values.square()
        for i in distances.starts
    ]
    number = neighbours.clamp_max(near)
    if members is not None:
        number = torch.minimum(number, members.sum(dim=1).clamp_min(1))
    beyond = torch.arange(near, device=number.device) >= number[:, None, None]
    known = [part.masked_fill_(beyond, 0.0).sum(dim=2) for part in nearest]
    sparsity = torch.cat(known, dim=1) / number[:, None]
    digits, exponent = sparsity.frexp()  # what differs by rounding alone is equally dense
    level = torch.ldexp((digits * 2**16).round(), exponent)
    if members is not None:
        level = level.masked_fill(~members, torch.inf)
    rank = level.argsort(dim=1, stable=True).argsort(dim=1)
    gaps = []
    for i in distances.starts:
        distance = distances.block(i)
        denser = rank.unsqueeze(1) < rank[:, i : i + distance.shape[1]].unsqueeze(2)
        gap = distance.masked_fill(~denser, torch.inf).amin(dim=2)
        farthest = distance.masked_fill(distance.isinf(), 0.0) if members is not None else distance
        gaps.append(gap.where(gap.isfinite(), farthest.amax(dim=2)))
    score = torch.exp(-sparsity) * torch.cat(gaps, dim=1)
    return score if members is None else score.masked_fill(~members, -torch.inf)
