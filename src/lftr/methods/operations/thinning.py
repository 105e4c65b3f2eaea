"""Thinning a list by dropping, a few at a time, what has a near neighbour in the other half."""

from __future__ import annotations

import torch
from torch import Tensor

from ...indexing import take
from .scaling import unit
from .similarity import SAME, gram

NEIGHBOURS = 32  # nearest tokens that are remembered of each, more of long lists
BLOCK = 1 << 22  # similarities of an item that are held at once


def thin(x: Tensor, members: Tensor, keep: int, step: int) -> Tensor:
    """Return the ``keep`` of ``members`` that are left after dropping near duplicates.

    In each round the even places of the list are compared with the odd ones by cosine; of the even
    ones the ``step`` with the nearest neighbour go. The others, nearest first, and then the odd
    ones make up the next round's list.

    Only the nearest neighbours of each token are remembered, so memory stays linear in N; they are
    looked up again once none of a token's is left on the other side.

    Parameters
    ----------
    x : Tensor, shape (B, N, C)
    members : Tensor of int64, shape (B, R)
        The list, in order.
    keep : int
        Tokens to leave, fewer than R and at least one.
    step : int
        Most tokens to drop in a round; never more than the even half.
    """
    x = unit(x)
    known = _neighbours(x, members)
    while (size := members.shape[1]) > keep:
        even, odd = members[:, ::2], members[:, 1::2]
        score = _look_up(*known, even, odd)
        if score is None:
            known = _neighbours(x, members)
            score = _look_up(*known, even, odd)
        if score is None:  # as many near duplicates on one side as are remembered
            score = _compare(take(x, even, 1), take(x, odd, 1))
        order = score.argsort(dim=1, descending=True, stable=True)
        gone = min(step, size - keep, even.shape[1])
        members = torch.cat([even.gather(1, order[:, gone:]), odd], dim=1)
    return members


def _look_up(near: Tensor, value: Tensor, even: Tensor, odd: Tensor) -> Tensor | None:
    """Return the cosine of each even token's nearest odd one, if it is remembered of all."""
    opposite = torch.zeros(near.shape[:2], dtype=torch.uint8, device=near.device)
    opposite.scatter_(1, odd, 1)
    near = take(near, even, 1)
    there = opposite.gather(1, near.flatten(1)).view_as(near)
    first = there.argmax(dim=2, keepdim=True)  # the nearest comes first
    if not bool(there.gather(2, first).all()):
        return None
    return take(value, even, 1).gather(2, first).squeeze(2)


def _compare(even: Tensor, odd: Tensor) -> Tensor:
    """Return the cosine of each even token's nearest odd one, computed in blocks."""
    step = max(1, BLOCK // odd.shape[1])
    parts = [torch.bmm(some, odd.mT).amax(dim=2) for some in even.split(step, dim=1)]
    return torch.cat(parts, dim=1).clamp_(max=SAME)


def _neighbours(x: Tensor, members: Tensor) -> tuple[Tensor, Tensor]:
    """Return the nearest other members of each member, and their cosines, ``(B, N, t)``."""
    batch, total, _ = x.shape
    size = members.shape[1]
    count = min(max(NEIGHBOURS, size // 256), size - 1)
    among = take(x, members, 1)
    near = members.new_zeros(batch, total, count)
    value = x.new_zeros(batch, total, count)
    step = max(1, BLOCK // size)
    for low in range(0, size, step):
        some = among[:, low : low + step]
        rows = gram(among) if step >= size else torch.bmm(some, among.mT)
        rows.clamp_(max=SAME)
        rows.diagonal(low, dim1=1, dim2=2).fill_(-torch.inf)
        top = rows.topk(count, dim=2)
        place = members[:, low : low + step].unsqueeze(2).expand(-1, -1, count)
        value.scatter_(1, place, top.values)
        ids = members.gather(1, top.indices.flatten(1)).view_as(top.indices)
        near.scatter_(1, place, ids)
    return near, value
