"""Rules that pick one token after the other; each returns the picks in order, ``(B, K)``."""

from __future__ import annotations

import torch
from torch import Tensor

from .directions import Directions
from .similarity import SAME, Similarity, most_isolated

AT_ONCE = 64  # tokens that are compared with all others together


def farthest_point(x: Tensor, keep: int) -> Tensor:
    """Pick tokens that are far apart: each the farthest, by cosine, from all picked before.

    Starts from the token whose nearest neighbour is the farthest. O(N K) comparisons on a running
    minimum of the distances; duplicates of picked tokens come last.

    Parameters
    ----------
    x : Tensor, shape (B, N, C)
    keep : int
        Picks, at most N.
    """
    similarity = Similarity(
        Directions.of(x), x.shape[1], diagonal=torch.inf
    )  # a picked token is never far again
    pick = most_isolated(similarity)
    picks = [pick]
    nearest = torch.full(x.shape[:2], -torch.inf, device=x.device)
    for _ in range(keep - 1):
        row = similarity.row(pick, nearest, largest=False)
        torch.maximum(nearest, row, out=nearest)
        pick = nearest.argmin(dim=1)
        picks.append(pick)
    return torch.stack(picks, dim=1)


def determinantal(x: Tensor, quality: Tensor, keep: int) -> Tensor:
    """Pick greedily the set of largest determinant of ``diag(q) cos diag(q)`` (Chen et al. 2018).

    Uses an incremental Cholesky factorisation with O(N K) memory. Tokens in the span of the picked
    ones have no residual left. When only such tokens remain, they are picked by quality, so that K
    may exceed the rank.

    Parameters
    ----------
    x : Tensor, shape (B, N, C)
    quality : Tensor, shape (B, N)
        Non-negative weight of each token.
    keep : int
        Picks, at most N.
    """
    quality = quality.float() / quality.amax(dim=1, keepdim=True).clamp_min(1e-30)
    tokens = Directions.of(x)
    kernel = Directions(tokens.parts, tuple(factor * quality for factor in tokens.factors))
    similarity = Similarity(kernel, keep)
    whole = quality.square().where(tokens.factors[0] > 0, 0.0)
    exhausted, spent = 1e-5 * whole, quality.square() - 4.0  # float32 resolves no smaller residual
    left = torch.where(whole > exhausted, whole, spent)
    factor = left.new_empty(len(x), keep, x.shape[1])
    picks = []
    for i in range(keep):
        pick = left.argmax(dim=1)
        picks.append(pick)
        at = pick.unsqueeze(1)
        row = similarity.row(pick, left)
        if i:
            known = factor[:, :i]
            weight = known.gather(2, at.unsqueeze(1).expand(-1, i, 1))
            row = torch.baddbmm(row.unsqueeze(1), weight.mT, known, alpha=-1).squeeze(1)
        row = row * left.gather(1, at).rsqrt().nan_to_num_(0.0)  # what is spent is negative
        factor[:, i] = row
        left.addcmul_(row, row, value=-1)
        left = torch.where(left > exhausted, left, spent)
        left.scatter_(1, at, -torch.inf)
        spent.scatter_(1, at, -torch.inf)
    return torch.stack(picks, dim=1)


def soft_nms(x: Tensor, scores: Tensor, keep: int, gamma: float) -> Tensor:
    """Pick the highest score; lower the others by ``exp(-gamma (1 - cos)^2)`` of it; repeat.

    A pick with a score below zero lowers no other score, so that the remaining tokens are picked
    by how little their score was lowered.

    Parameters
    ----------
    x : Tensor, shape (B, N, C)
    scores : Tensor, shape (B, N)
    keep : int
        Picks, at most N.
    gamma : float
        Higher lowers only the nearer tokens.
    """
    similarity = Similarity(Directions.of(x), keep)
    left = scores.float().clone()
    picks = []
    for _ in range(keep):
        pick = left.argmax(dim=1)
        picks.append(pick)
        at = pick.unsqueeze(1)
        nearness = (1.0 - similarity.row(pick, left)).square_().mul_(-gamma).exp_()
        left = left - nearness * left.gather(1, at).clamp_min_(0.0)
        left.scatter_(1, at, -torch.inf)
    return torch.stack(picks, dim=1)


def suppress(x: Tensor, scores: Tensor, keep: int, threshold: float) -> Tensor:
    """Pick by score; skip tokens whose cosine with a pick is above ``threshold``.

    When no other token is left, the skipped ones follow by score until K are picked. Tokens are
    compared with all others a block at a time, in the order of their scores.

    Parameters
    ----------
    x : Tensor, shape (B, N, C)
    scores : Tensor, shape (B, N)
    keep : int
        Picks, at most N.
    threshold : float
        Cosine above which two tokens count as duplicates.
    """
    tokens = Directions.of(x)
    order = scores.argsort(dim=1, descending=True, stable=True)
    return torch.stack(
        [_unlike(tokens.item(i), some, keep, threshold) for i, some in enumerate(order)]
    )


def _unlike(tokens: Directions, order: Tensor, keep: int, threshold: float) -> Tensor:
    """Return the picks ``(K,)`` of `suppress` for one item, whose tokens have this order."""
    picked = torch.zeros_like(order, dtype=torch.bool)
    waiting, left = order, keep
    while left and len(waiting):
        some = waiting[: min(left, AT_ONCE)]
        alike = tokens.rows(some.unsqueeze(0))[0].clamp_(max=SAME) > threshold
        chosen: list[int] = []
        for place, others in enumerate(alike[:, some].tolist()):
            if not any(others[pick] for pick in chosen):
                chosen.append(place)
        picked[some[chosen]] = True
        left -= len(chosen)
        waiting = waiting[len(some) :]
        waiting = waiting[~alike[chosen].any(dim=0)[waiting]]
    first = picked[order]
    return torch.cat([order[first], order[~first][:left]])


def k_centre(x: Tensor, keep: int, covered: Tensor, weight: Tensor | None = None) -> Tensor:
    """Pick the token farthest, by cosine, from its nearest pick or covered token; repeat.

    Parameters
    ----------
    x : Tensor, shape (B, N, C)
    keep : int
        Picks, at most those that are not covered.
    covered : Tensor of int64, shape (B, P)
        Tokens that are picked already; they are not returned.
    weight : Tensor, shape (B, N), optional
        Non-negative factor of each token's distance; by default 1.
    """
    similarity = Similarity(Directions.of(x), keep)
    nearest = similarity.rows(covered).amax(dim=1)
    weight = torch.ones_like(nearest) if weight is None else weight.float()
    free = torch.zeros_like(nearest).scatter_(1, covered, -torch.inf)
    picks = []
    for _ in range(keep):
        distance = weight * (1.0 - nearest) + free
        pick = distance.argmax(dim=1)
        picks.append(pick)
        free.scatter_(1, pick.unsqueeze(1), -torch.inf)
        nearest = nearest.maximum(similarity.row(pick, distance))
    return torch.stack(picks, dim=1)
