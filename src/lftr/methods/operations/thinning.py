"""Remove near-duplicates from a list of tokens, a few at a time (VisPruner's rule)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...values.indexing import take
from .directions import gram
from .scaling import unit
from .similarity import SAME

NEIGHBOURS = 64  # nearest tokens that are stored for each
FIRST = 16  # of them are looked at before the others
BLOCK = 1 << 22  # similarities of an item that are held at once


def thin(x: Tensor, members: Tensor, keep: int, step: int) -> Tensor:
    """Return the ``keep`` of ``members`` that are left after near-duplicates are removed.

    In each round, tokens at even places of the list are compared with those at odd places by
    cosine. The ``step`` even ones most similar to an odd one are removed. The list of the next
    round is the other even ones, most similar first, followed by the odd ones.

    Only the nearest neighbours of each token are stored, so that memory is linear in N. They are
    computed again when none of a token's neighbours is left on the other side.

    Parameters
    ----------
    x : Tensor, shape (B, N, C)
    members : Tensor of int64, shape (B, R)
        The list, in order.
    keep : int
        Number of tokens to keep, fewer than R and at least one.
    step : int
        Largest number of tokens to remove in a round, at most those at even places.
    """
    x = unit(x)
    known = _Neighbours.of(x, members)
    while (size := members.shape[1]) > keep:
        even, odd = members[:, ::2], members[:, 1::2]
        score = known.opposite(even, odd)
        if score is None:
            known = _Neighbours.of(x, members)
            score = known.opposite(even, odd)
        if score is None:  # as many near duplicates on one side as are remembered
            score = _compare(take(x, even, 1), take(x, odd, 1))
        order = score.argsort(dim=1, descending=True, stable=True)
        gone = min(step, size - keep, even.shape[1])
        members = torch.cat([even.gather(1, order[:, gone:]), odd], dim=1)
    return members


@dataclass(frozen=True)
class _Neighbours:
    """The nearest other members of each member, most similar first, and their cosines.

    Both are ``(B, N, t)``; ``first`` and ``first_cosine`` repeat the first few, for speed.
    """

    token: Tensor
    cosine: Tensor
    first: Tensor
    first_cosine: Tensor

    @classmethod
    def of(cls, x: Tensor, members: Tensor) -> _Neighbours:
        """Compute the neighbours among ``members`` ``(B, R)`` of unit rows ``x`` ``(B, N, C)``."""
        batch, total, _ = x.shape
        size = members.shape[1]
        count = min(NEIGHBOURS, size - 1)
        among = take(x, members, 1)
        token = members.new_zeros(batch, total, count)
        cosine = x.new_zeros(batch, total, count)
        step = max(1, BLOCK // size)
        for low in range(0, size, step):
            some = among[:, low : low + step]
            rows = gram(among) if step >= size else torch.bmm(some, among.mT)
            rows.clamp_(max=SAME)
            rows.diagonal(low, dim1=1, dim2=2).fill_(-torch.inf)
            top = rows.topk(count, dim=2)
            place = members[:, low : low + step].unsqueeze(2).expand(-1, -1, count)
            cosine.scatter_(1, place, top.values)
            token.scatter_(1, place, members.gather(1, top.indices.flatten(1)).view_as(top.indices))
        return cls(
            token, cosine, token[:, :, :FIRST].contiguous(), cosine[:, :, :FIRST].contiguous()
        )

    def opposite(self, even: Tensor, odd: Tensor) -> Tensor | None:
        """Return the cosine of each even token's nearest odd one, if it is remembered of all."""
        bar = torch.full(self.token.shape[:2], -torch.inf, device=even.device)
        bar.scatter_(1, odd, 0.0)  # added to the cosines, it leaves those of the odd
        near = take(self.first, even, 1)
        bound = bar.gather(1, near.flatten(1)).view(near.shape)
        score = bound.add_(take(self.first_cosine, even, 1)).amax(dim=2)
        item, place = score.isneginf().nonzero(as_tuple=True)
        if len(item) == 0:
            return score
        token = even[item, place]
        other = bar[item.unsqueeze(1), self.token[item, token]]
        nearest = other.add_(self.cosine[item, token]).amax(dim=1)
        score[item, place] = nearest
        return None if bool(nearest.isneginf().any()) else score


def _compare(even: Tensor, odd: Tensor) -> Tensor:
    """Return the cosine of each even token's nearest odd one, computed in blocks."""
    step = max(1, BLOCK // odd.shape[1])
    parts = [torch.bmm(some, odd.mT).amax(dim=2) for some in even.split(step, dim=1)]
    return torch.cat(parts, dim=1).clamp_(max=SAME)
