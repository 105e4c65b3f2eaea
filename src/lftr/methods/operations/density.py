"""Density peaks among a token's nearest neighbours (DPC-kNN), without the usual noise."""

from __future__ import annotations

import torch
from torch import Tensor

from .similarity import BLOCK


def density_peaks(x: Tensor, count: int, neighbours: int = 5) -> Tensor:
    """Return the tokens ``(B, count)`` that are dense and far from any denser one, best first.

    Density is ``exp(-mean d^2)`` over the nearest tokens (itself included), ``d`` the Euclidean
    distance over ``sqrt(C)``; the score is density times the distance to the nearest denser token,
    for the densest the farthest of all. Of equally dense tokens the earlier counts as denser, so
    that the result is the same every time. Distances are computed in blocks, twice, so that memory
    stays linear in N.

    Parameters
    ----------
    x : Tensor, shape (B, N, C)
    count : int
        Tokens to return, at most N.
    neighbours : int
        How many nearest tokens make the density.

    Notes
    -----
    Rodriguez and Laio, "Clustering by fast search and find of density peaks", 2014; its kNN form is
    that of Du et al., arXiv 1607.02203.
    """
    x = x.float()
    total, scale = x.shape[1], x.shape[2] ** -0.5
    starts = range(0, total, BLOCK)

    def distances(start: int) -> Tensor:
        return torch.cdist(x[:, start : start + BLOCK], x).mul_(scale)

    near = min(neighbours, total)
    nearest = [distances(i).topk(near, dim=2, largest=False).values.square() for i in starts]
    sparsity = torch.cat([part.mean(dim=2) for part in nearest], dim=1)
    digits, exponent = sparsity.frexp()  # what differs by rounding alone is equally dense
    level = torch.ldexp((digits * 2**16).round(), exponent)
    rank = level.argsort(dim=1, stable=True).argsort(dim=1)
    gaps = []
    for i in starts:
        distance = distances(i)
        denser = rank.unsqueeze(1) < rank[:, i : i + BLOCK].unsqueeze(2)
        gap = distance.masked_fill(~denser, torch.inf).amin(dim=2)
        gaps.append(gap.where(gap.isfinite(), distance.amax(dim=2)))
    score = torch.exp(-sparsity) * torch.cat(gaps, dim=1)
    return score.argsort(dim=1, descending=True, stable=True)[:, :count]
