"""Thinning a list by dropping, a few at a time, what has a near neighbour in the other half."""

from __future__ import annotations

import torch
from torch import Tensor

from ...indexing import take
from .scaling import unit
from .similarity import SAME

NEIGHBOURS = 64  # nearest tokens that are remembered of each
BLOCK = 1 << 22  # similarities of an item that are held at once


def thin(x: Tensor, members: Tensor, keep: int, step: int) -> Tensor:
    """Return the ``keep`` of ``members`` that are left after dropping near duplicates.

    In each round the even places of the list are compared with the odd ones by cosine; of the even
    ones the ``step`` with the nearest neighbour go. The others, nearest first, and then the odd ones
    make up the next round's list.

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
    near, value = _neighbours(x, members)
    while (size := members.shape[1]) > keep:
        even, odd = members[:, ::2], members[:, 1::2]
        opposite = torch.zeros(x.shape[:2], dtype=torch.uint8, device=x.device).scatter_(1, odd, 1)
        while True:
            known = take(near, even, 1)
            there = opposite.gather(1, known.flatten(1)).view_as(known)
            first = there.argmax(dim=2, keepdim=True)  # nearest first
            if bool(there.gather(2, first).all()):
                break
            near, value = _neighbours(x, members)
        score = take(value, even, 1).gather(2, first).squeeze(2)
        order = score.argsort(dim=1, descending=True, stable=True)
        gone = min(step, size - keep, even.shape[1])
        members = torch.cat([even.gather(1, order[:, gone:]), odd], dim=1)
    return members


def _neighbours(x: Tensor, members: Tensor) -> tuple[Tensor, Tensor]:
    """Return the nearest other members of each member, and their cosines, ``(B, N, t)``."""
    batch, total, _ = x.shape
    size = members.shape[1]
    count = min(NEIGHBOURS, size - 1)
    among = take(x, members, 1)
    near = members.new_zeros(batch, total, count)
    value = x.new_zeros(batch, total, count)
    step = max(1, BLOCK // size)
    for low in range(0, size, step):
        some = among[:, low : low + step]
        rows = torch.bmm(some, among.mT).clamp_(max=SAME)
        rows.diagonal(low, dim1=1, dim2=2).fill_(-torch.inf)
        top = rows.topk(count, dim=2)
        place = members[:, low : low + step].unsqueeze(2).expand(-1, -1, count)
        value.scatter_(1, place, top.values)
        ids = members.gather(1, top.indices.flatten(1)).view_as(top.indices)
        near.scatter_(1, place, ids)
    return near, value
