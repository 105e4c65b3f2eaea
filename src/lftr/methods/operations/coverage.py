"""Greedy facility location: picks that together resemble every token."""

from __future__ import annotations

import torch
from torch import Tensor

from . import similarity as similar
from .lazy_greedy import Rows, lazy_greedy
from .scaling import unit
from .similarity import SAME


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
    """Pick greedily what adds most to ``sum_u importance_u max_picked likeness(u, picked)``.

    The value of a candidate is ``weight * gain + bonus``. Its gain is what it adds to that sum,
    which starts at zero. Likeness is the cosine, or with ``width`` ``exp(-(1 - cos) / width)``.

    The map of candidates and tokens is held up to `similarity.WHOLE` tokens (four times as many on
    a GPU). Beyond, its rows are computed when they are needed, and memory is linear in N.

    Parameters
    ----------
    x : Tensor, shape (B, N, C)
    keep : int
        Picks, at most as many as there are candidates.
    weight : Tensor, shape (B, N), optional
        Non-negative; by default 1.
    bonus : Tensor, shape (B, N), optional
        By default 0.
    among : Tensor of int64, shape (P,), optional
        The candidates: tokens that can be picked, by default all.
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
    weight = x.new_ones(x.shape[:2]) if weight is None else weight.float()
    bonus = x.new_zeros(x.shape[:2]) if bonus is None else bonus.float()
    picks = []
    for b, tokens in enumerate(x):
        rows = _likeness(
            tokens, index, width, None if importance is None else importance[b].float()
        )
        picks.append(lazy_greedy(rows, len(tokens), keep, weight[b, index], bonus[b, index]))
    return index[torch.stack(picks)]


def _likeness(
    tokens: Tensor, index: Tensor, width: float | None, importance: Tensor | None
) -> Rows:
    """Return a function from some candidates ``(R,)`` to their likeness ``(R, N)`` to all tokens.

    Parameters
    ----------
    tokens : Tensor, shape (N, C)
        Rows of length one.
    index : Tensor of int64, shape (P,)
        The candidates.
    width : float, optional
    importance : Tensor, shape (N,), optional
        See `facility_location`.
    """

    def computed(some: Tensor) -> Tensor:
        likeness = torch.mm(tokens[index[some]], tokens.T).clamp_(max=SAME)
        if width is not None:
            likeness.sub_(1.0).div_(width).exp_()
        return likeness if importance is None else likeness.mul_(importance)

    if len(tokens) > similar.WHOLE * (4 if tokens.is_cuda else 1):
        return computed
    return computed(torch.arange(len(index), device=index.device)).__getitem__
