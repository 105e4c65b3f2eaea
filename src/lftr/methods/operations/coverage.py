"""Greedy facility location: picks that together resemble every token."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from ...values.indexing import take
from . import similarity as similar
from .excess import listed_greedy
from .scaling import unit
from .similarity import SAME, gram

PLAIN = 1 << 17  # similarities of a stack up to which all gains are computed anew for each pick
STEP = 32  # candidates that are looked at together beyond that


def facility_location(
    x: Tensor,
    keep: int,
    *,
    weight: Tensor | None = None,
    bonus: Tensor | None = None,
    among: Tensor | None = None,
    width: float | None = None,
    importance: Tensor | None = None,
) -> Tensor:
    """Pick greedily what adds most to ``sum_u importance_u max_picked like(u, picked)``.

    The value of a candidate is ``weight * gain + bonus``, its gain what it adds to that sum, which
    starts at zero. Likeness is the cosine, or with ``width`` ``exp(-(1 - cos) / width)``. Gains
    only fall, so those that were largest are made exact first and the others are left as bounds.

    The map of candidates and tokens is held up to `similarity.WHOLE` tokens (four times as many on
    a GPU); beyond, memory is linear in N, see `listed_greedy`.

    Parameters
    ----------
    x : Tensor, shape (B, N, C)
    keep : int
        Picks, at most as many as there are candidates.
    weight : Tensor, shape (B, N), optional
        Non-negative.
    bonus : Tensor, shape (B, N), optional
    among : Tensor of int64, shape (P,), optional
        Tokens that can be picked, by default all.
    width : float, optional
        Distance at which likeness falls to ``1/e``, on the scale of ``1 - cos``.
    importance : Tensor, shape (B, N), optional
        Positive weight of each token that is to be resembled.

    Returns
    -------
    Tensor of int64, shape (B, K)
        The picks in order, as tokens.
    """
    x = unit(x)
    index = torch.arange(x.shape[1], device=x.device) if among is None else among
    zeros = torch.zeros(len(x), len(index), device=x.device)
    weight = zeros + 1.0 if weight is None else weight[:, index].float()
    bonus = zeros if bonus is None else bonus[:, index].float()
    scale = None if importance is None else importance.float()
    if x.shape[1] > similar.WHOLE * (4 if x.is_cuda else 1):
        places = []
        for b, row in enumerate(x):
            like = partial(_alike, width=width, scale=None if scale is None else scale[b])
            bound = _gain_bound(row, index) if width is None and scale is None else None
            find = partial(_rows, row, index, like)
            places.append(listed_greedy(find, row.shape[0], keep, weight[b], bonus[b], bound))
        return index[torch.stack(places)]
    products = gram(x) if among is None else torch.bmm(x[:, among], x.mT)
    held = _alike(products, width, None if scale is None else scale.unsqueeze(1))
    pick = _plain if held.is_cuda or held.numel() <= PLAIN else _lazy
    return index[pick(held, keep, weight, bonus)]


def _alike(cosine: Tensor, width: float | None, scale: Tensor | None) -> Tensor:
    """Return the likeness of cosines ``(..., N)``, times the tokens' importance; in place."""
    cosine.clamp_(max=SAME)
    if width is not None:
        cosine.sub_(1.0).div_(width).exp_()
    return cosine if scale is None else cosine.mul_(scale)


def _rows(x: Tensor, index: Tensor, like: Callable[[Tensor], Tensor], some: Tensor) -> Tensor:
    """Return the likeness ``(R, N)`` of some candidates of an item ``(N, C)`` to its tokens."""
    return like(torch.mm(x[index[some]], x.T))


def _plain(held: Tensor, keep: int, weight: Tensor, bonus: Tensor) -> Tensor:
    """Pick among the rows of ``held`` ``(B, P, N)``; every gain is computed anew for each pick."""
    covered = torch.zeros_like(held[:, 0])
    bonus = bonus.clone()  # minus infinity once picked
    above = torch.empty_like(held)
    picks = []
    for _ in range(keep):
        torch.sub(held, covered.unsqueeze(1), out=above)
        gain = above.clamp_(min=0.0).sum(dim=2)
        pick = torch.addcmul(bonus, gain, weight).argmax(dim=1, keepdim=True)
        picks.append(pick)
        covered = torch.maximum(covered, take(held, pick, 1).squeeze(1))
        bonus.scatter_(1, pick, -torch.inf)
    return torch.cat(picks, dim=1)


def _lazy(held: Tensor, keep: int, weight: Tensor, bonus: Tensor) -> Tensor:
    """Return the same picks; only what may have the largest value is computed anew."""
    covered = torch.zeros_like(held[:, 0])
    bonus = bonus.clone()  # minus infinity once picked
    value = torch.addcmul(bonus, held.clamp_min(0.0).sum(dim=2), weight)
    exact = torch.ones_like(value, dtype=torch.bool)
    step = min(STEP, value.shape[1])
    picks = []
    for _ in range(keep):
        while True:
            best = value.argmax(dim=1, keepdim=True)
            if bool(exact.gather(1, best).all()):
                break
            some = value.masked_fill(exact, -torch.inf).topk(step, dim=1).indices
            gain = (take(held, some, 1) - covered.unsqueeze(1)).clamp_min_(0.0).sum(dim=2)
            true = torch.addcmul(bonus.gather(1, some), gain, weight.gather(1, some))
            value.scatter_(1, some, true)
            exact.scatter_(1, some, True)
        picks.append(best)
        covered = torch.maximum(covered, take(held, best, 1).squeeze(1))
        value.scatter_(1, best, -torch.inf)
        bonus.scatter_(1, best, -torch.inf)
        exact.fill_(False)
    return torch.cat(picks, dim=1)


def _gain_bound(x: Tensor, index: Tensor) -> Callable[[Tensor], Tensor]:
    """Return a function from coverage ``(N,)`` to upper bounds ``(P,)`` of what each adds to it.

    The positive parts of N numbers sum to ``(sum + sum of sizes) / 2``, and their sizes to no more
    than ``sqrt(N * sum of squares)``; both follow from the features' first two moments.
    """
    total, some = len(x), x[index]
    plain = some @ x.sum(dim=0)
    squares = ((some @ (x.T @ x)) * some).sum(dim=1)

    def bound(covered: Tensor) -> Tensor:
        square = squares - 2.0 * (some @ (x.T @ covered)) + covered.square().sum()
        first = plain - covered.sum()
        return (first + (total * square.clamp_min(0.0)).sqrt()) / 2 + 1e-5 * total  # rounding

    return bound
