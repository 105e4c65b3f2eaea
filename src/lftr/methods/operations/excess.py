"""Facility location in memory linear in N: lists of the few tokens that a candidate still helps."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

LIST = 512  # listed tokens for each of the N tokens
BLOCK = 256  # rows that are computed at once
FEW = 16  # rows that are computed first, and are looked at together


def listed_greedy(
    rows: Callable[[Tensor], Tensor],
    total: int,
    keep: int,
    weight: Tensor,
    bonus: Tensor,
    bound: Callable[[Tensor], Tensor] | None,
) -> Tensor:
    """Pick, one after the other, the largest ``weight * gain + bonus`` of one item; return them.

    A candidate's gain is the sum of what its row exceeds the rows of all picks by. Excesses only
    shrink: values once computed are upper bounds, and only the highest of those are made exact; a
    token that a row does not exceed now it never will, so that a row whose excess is on few tokens
    is kept as the list of those and never computed again. Memory is that of `LIST` ``* N`` list
    entries and `BLOCK` rows.

    Parameters
    ----------
    rows : function from int64 (R,) to (R, N)
        What the candidates give each token.
    total, keep : int
        N, and the number of picks.
    weight, bonus : Tensor, shape (P,)
        Of each candidate; weights are non-negative.
    bound : function from (N,) to (P,), optional
        Upper bounds of the gains, from what the picks give each token.

    Returns
    -------
    Tensor of int64, shape (K,)
        Positions of the picks among the candidates, in order.
    """
    covered = torch.zeros(total, device=weight.device)
    lists = _Lists(len(weight), min(total, LIST * total // len(weight)), covered)
    value = torch.full_like(weight, torch.inf)
    picks = []
    for _ in range(keep):
        exact = torch.zeros_like(weight, dtype=torch.bool)
        size = 0
        while not exact[best := int(value.argmax())]:
            open_ = value.masked_fill(exact, -torch.inf)
            if lists.known[best]:
                open_ = open_.masked_fill_(~lists.known, -torch.inf)
                some = _highest(open_, FEW)
                gain = lists.gain(some, covered)
            elif size == 0 and bound is not None:  # before any row is computed
                tighter = torch.addcmul(bonus, bound(covered), weight)
                value = torch.minimum(value, tighter)
                size = FEW
                continue
            else:
                size = min(max(2 * size, FEW), BLOCK)
                some = _highest(open_.masked_fill_(lists.known, -torch.inf), size)
                gain = lists.enter(some, rows(some), covered)
            value[some] = torch.addcmul(bonus[some], gain, weight[some])
            exact[some] = True
        picks.append(best)
        value[best] = -torch.inf
        if lists.known[best]:
            lists.cover(best, covered)
        else:
            torch.maximum(
                covered, rows(torch.tensor([best], device=covered.device))[0], out=covered
            )
    return torch.tensor(picks, device=weight.device)


def _highest(value: Tensor, count: int) -> Tensor:
    """Return at most ``count`` places of the highest values, none of minus infinity."""
    top = value.topk(min(count, len(value)))
    return top.indices[top.values > -torch.inf]


class _Lists:
    """The tokens that a candidate's row exceeds the coverage of, and what it gives them.

    Parameters
    ----------
    count, length : int
        Number of candidates, and the longest list that is kept.
    like : Tensor
        A tensor of the dtype and device of what is listed.
    """

    def __init__(self, count: int, length: int, like: Tensor) -> None:
        self.token = torch.zeros(count, length, dtype=torch.int32, device=like.device)
        self.given = like.new_full((count, length), -torch.inf)
        self.length = torch.zeros(count, dtype=torch.int64, device=like.device)
        self.known = torch.zeros(count, dtype=torch.bool, device=like.device)

    def enter(self, some: Tensor, rows: Tensor, covered: Tensor) -> Tensor:
        """Return the gains ``(R,)`` of full rows, and list those that are short enough."""
        gains = []
        for part, row in zip(some.split(FEW), rows.split(FEW), strict=True):  # stays in the cache
            excess = (row - covered).clamp_min_(0.0)
            gains.append(excess.sum(dim=1))
            number = excess.count_nonzero(dim=1)
            short = (number <= self.token.shape[1]).nonzero().squeeze(1)
            if len(short) == 0:
                continue
            at, token = excess[short].nonzero(as_tuple=True)
            length, candidate = number[short], part[short]
            place = torch.arange(len(at), device=at.device) - (length.cumsum(0) - length)[at]
            self.token[candidate[at], place] = token.int()
            self.given[candidate[at], place] = row[short[at], token]
            self.length[candidate] = length
            self.known[candidate] = True
        return torch.cat(gains)

    def gain(self, some: Tensor, covered: Tensor) -> Tensor:
        """Return the gains ``(R,)`` of listed candidates."""
        longest = max(1, int(self.length[some].amax()))
        token = self.token[some, :longest].long()
        return (self.given[some, :longest] - covered[token]).clamp_min_(0.0).sum(dim=1)

    def cover(self, one: int, covered: Tensor) -> None:
        """Raise the coverage to what a listed candidate gives; in place."""
        number = int(self.length[one])
        token = self.token[one, :number].long()
        covered[token] = torch.maximum(covered[token], self.given[one, :number])
