"""Choose tokens that differ from a few pivots (DART's rule)."""

from __future__ import annotations

import torch
from torch import Tensor

from ...values.indexing import take
from .scaling import unit


def largest(x: Tensor, count: int) -> Tensor:
    """Return the rows ``(B, count)`` of ``x`` ``(B, N, C)`` of largest L1 norm, in that order.

    Ties go to the earlier row. If there are fewer than ``count`` rows, all are returned.
    """
    return x.float().abs().sum(dim=2).argsort(dim=1, descending=True, stable=True)[:, :count]


def least_alike(x: Tensor, index: Tensor, others: Tensor | None, keep: int) -> Tensor:
    """Pick pivots and, for each in turn, the free tokens of lowest cosine with it.

    Parameters
    ----------
    x : Tensor, shape (B, N, C)
    index : Tensor of int64, shape (B, P)
        The tokens that are pivots; they are picked too, in this order; ``P <= keep``.
    others : Tensor, shape (B, M, C), optional
        Further pivots, which are not among the tokens; their turns come last.
    keep : int
        Picks, at most N.

    Returns
    -------
    Tensor of int64, shape (B, keep)
        In the order of the picks. Each pivot has an equal quota, the first ones one more where the
        picks do not divide.
    """
    x = x.float()
    pivots = take(x, index, 1)
    if others is not None:
        pivots = torch.cat([pivots, others.float()], dim=1)
    cosine = torch.bmm(unit(pivots), unit(x).mT)
    taken = torch.zeros(x.shape[:2], device=x.device).scatter_(1, index, torch.inf)
    quota, spare = divmod(keep - index.shape[1], pivots.shape[1])
    picks = [index]
    for p in range(pivots.shape[1]):
        order = (cosine[:, p] + taken).argsort(dim=1, stable=True)
        picks.append(order[:, : quota + (p < spare)])
        taken.scatter_(1, picks[-1], torch.inf)
    return torch.cat(picks, dim=1)
