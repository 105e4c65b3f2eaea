"""Greedy facility location: picks that together resemble every token."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ...indexing import take
from . import similarity as similar
from .scaling import unit
from .similarity import Similarity

POOL = 512  # candidates whose similarities are held where the N x N map is not
STEP = 8  # candidates that are looked at together


def facility_location(
    x: Tensor, keep: int, weight: Tensor | None = None, bonus: Tensor | None = None
) -> Tensor:
    """Pick greedily what adds most to ``sum_u max_picked cos(u, picked)``; return the order.

    The value of a token is ``weight * gain + bonus``, its gain what it adds to the coverage of all
    tokens, picked ones included; coverage starts at zero. Up to `similarity.WHOLE` tokens every
    gain is computed anew for each pick; beyond, only those that may be the largest, since gains
    only fall. The N x N map is held up to four times as many tokens, else `POOL` rows of it.

    Parameters
    ----------
    x : Tensor, shape (B, N, C)
    keep : int
        Picks, at most N.
    weight : Tensor, shape (B, N), optional
        Non-negative.
    bonus : Tensor, shape (B, N), optional

    Returns
    -------
    Tensor of int64, shape (B, K)
    """
    similarity = Similarity(unit(x), whole=4 * similar.WHOLE)
    zeros = torch.zeros(x.shape[:2], device=x.device)
    weight = zeros + 1.0 if weight is None else weight.float()
    bonus = zeros if bonus is None else bonus.float()
    if similarity.pairs is None or (x.shape[1] > similar.WHOLE and not x.is_cuda):
        return _lazy(similarity, keep, weight, bonus)
    covered, picks = zeros, []
    bonus = bonus.clone()  # minus infinity once picked
    above = torch.empty_like(similarity.pairs)
    for _ in range(keep):
        torch.sub(similarity.pairs, covered.unsqueeze(1), out=above)
        gain = above.clamp_(min=0.0).sum(dim=2)
        pick = torch.addcmul(bonus, gain, weight).argmax(dim=1)
        picks.append(pick)
        covered = torch.maximum(covered, similarity.row(pick, gain))
        bonus.scatter_(1, pick.unsqueeze(1), -torch.inf)
    return torch.stack(picks, dim=1)


def _lazy(similarity: Similarity, keep: int, weight: Tensor, bonus: Tensor) -> Tensor:
    """Return the same picks from upper bounds of the values; the highest are made exact first."""
    x = similarity.x
    covered = torch.zeros_like(weight)
    bound = _gain_bound(x)
    value = torch.addcmul(bonus, bound(covered), weight)
    pool = similarity.pairs if similarity.pairs is not None else x.new_zeros(len(x), 1, 1)
    slot = torch.arange(x.shape[1], device=x.device).expand_as(value)
    if similarity.pairs is None:
        slot = torch.full_like(slot, -1)
    picks = []
    for _ in range(keep):
        exact = torch.zeros_like(value, dtype=torch.bool)
        while True:
            best = value.argmax(dim=1, keepdim=True)
            if bool(exact.gather(1, best).all()):
                break
            if bool((slot.gather(1, best) < 0).any()):
                tighter = torch.addcmul(bonus, bound(covered), weight)
                value = torch.where(exact, value, torch.minimum(value, tighter))
                best = value.argmax(dim=1, keepdim=True)
                index = value.scatter(1, best, torch.inf).topk(POOL, dim=1).indices
                pool = similarity.rows(index)
                order = torch.arange(POOL, device=x.device).expand_as(index)
                slot = torch.full_like(slot, -1).scatter_(1, index, order)
            open_ = value.masked_fill(exact | (slot < 0), -torch.inf)
            top, some = open_.topk(STEP, dim=1)
            rows = take(pool, slot.gather(1, some).clamp_min(0), 1)
            gain = (rows - covered.unsqueeze(1)).clamp_min_(0.0).sum(dim=2)
            true = torch.addcmul(bonus.gather(1, some), gain, weight.gather(1, some))
            value.scatter_(1, some, torch.where(top.isneginf(), value.gather(1, some), true))
            exact.scatter_(1, some, exact.gather(1, some) | ~top.isneginf())
        picks.append(best.squeeze(1))
        covered = torch.maximum(covered, take(pool, slot.gather(1, best), 1).squeeze(1))
        value.scatter_(1, best, -torch.inf)
    return torch.stack(picks, dim=1)


def _gain_bound(x: Tensor) -> Callable[[Tensor], Tensor]:
    """Return a function from coverage ``(B, N)`` to upper bounds of what each token adds to it.

    The positive parts of N numbers sum to ``(sum + sum of sizes) / 2``, and their sizes to no more
    than ``sqrt(N * sum of squares)``; both follow from the features' first two moments.
    """
    total = x.shape[1]
    whole = x.sum(dim=1, keepdim=True)
    plain = (x * whole).sum(dim=2)
    squares = (torch.bmm(x, torch.bmm(x.mT, x)) * x).sum(dim=2)

    def bound(covered: Tensor) -> Tensor:
        mixed = torch.bmm(x, torch.bmm(x.mT, covered.unsqueeze(2))).squeeze(2)
        square = squares - 2.0 * mixed + covered.square().sum(dim=1, keepdim=True)
        first = plain - covered.sum(dim=1, keepdim=True)
        return (first + (total * square.clamp_min(0.0)).sqrt()) / 2 + 1e-5 * total  # rounding

    return bound
