"""Greedy picks by gains that only fall: gains once computed are bounds, the highest are renewed."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

RowsOf = Callable[[Tensor], Tensor]

LIST = 512  # entries of all lists together, for each token
BLOCK = 64  # rows that are looked at together
FEW = 16  # lists that are looked at together


def lazy_greedy(rows: RowsOf, total: int, keep: int, weight: Tensor, bonus: Tensor) -> Tensor:
    """Pick, one after the other, the largest ``weight * gain + bonus`` of one item; return them.

    A candidate gives each token a number, its row. A token's coverage is the largest number that a
    pick gives it, at first zero; a candidate's gain is the sum of what its row exceeds the coverage
    by. Coverage only grows and gains only fall, so a gain once computed is an upper bound, and only
    the highest bounds are computed anew. For the same reason, a row that exceeds the coverage of
    few tokens is stored as a list of those tokens and not computed again. Memory is that of
    `LIST` ``* N`` entries of lists and of `BLOCK` rows.

    Parameters
    ----------
    rows : function from int64 (R,) to (R, N)
        The rows of some candidates.
    total, keep : int
        N, and the number of picks.
    weight, bonus : Tensor, shape (P,)
        Of each candidate; weights are non-negative.

    Returns
    -------
    Tensor of int64, shape (K,)
        Positions of the picks among the candidates, in order; of equal values the first.
    """
    covered = torch.zeros(total, device=weight.device)
    lists = _Lists(len(weight), min(total, LIST * total // len(weight)), covered)
    value = torch.full_like(weight, torch.inf)
    picks = []
    for _ in range(keep):
        exact = torch.zeros_like(weight, dtype=torch.bool)
        while not exact[best := int(value.argmax())]:
            listed = bool(lists.known[best])
            skipped = exact | (lists.known != listed)
            top = value.masked_fill(skipped, -torch.inf).topk(
                min(FEW if listed else BLOCK, len(value))
            )
            some = top.indices[top.values > -torch.inf]
            gain = lists.gain(some, covered) if listed else lists.enter(some, rows(some), covered)
            value[some] = torch.addcmul(bonus[some], gain, weight[some])
            exact[some] = True
        picks.append(best)
        value[best] = -torch.inf
        if lists.known[best]:
            lists.cover(best, covered)
        else:
            row = rows(torch.tensor([best], device=covered.device))[0]
            torch.maximum(covered, row, out=covered)
    return torch.tensor(picks, device=weight.device)


class _Lists:
    """For some candidates, the tokens whose coverage their rows exceed, and what they give those.

    Parameters
    ----------
    count, length : int
        Number of candidates, and the longest list that is kept.
    like : Tensor
        A tensor of the dtype and device of the rows.
    """

    def __init__(self, count: int, length: int, like: Tensor) -> None:
        self.token = torch.zeros(count, length, dtype=torch.int32, device=like.device)
        self.value = like.new_full((count, length), -torch.inf)
        self.length = torch.zeros(count, dtype=torch.int64, device=like.device)
        self.known = torch.zeros(count, dtype=torch.bool, device=like.device)

    def enter(self, some: Tensor, rows: Tensor, covered: Tensor) -> Tensor:
        """Return the gains ``(R,)`` of full rows ``(R, N)``, and list those that are short."""
        excess = (rows - covered).clamp_min_(0.0)
        number = excess.count_nonzero(dim=1)
        short = (number <= self.token.shape[1]).nonzero().squeeze(1)
        at, token = excess[short].nonzero(as_tuple=True)
        length, candidate = number[short], some[short]
        place = torch.arange(len(at), device=at.device) - (length.cumsum(0) - length)[at]
        self.token[candidate[at], place] = token.int()
        self.value[candidate[at], place] = rows[short[at], token]
        self.length[candidate] = length
        self.known[candidate] = True
        return excess.sum(dim=1)

    def gain(self, some: Tensor, covered: Tensor) -> Tensor:
        """Return the gains ``(R,)`` of listed candidates."""
        longest = max(1, int(self.length[some].amax()))
        token = self.token[some, :longest].long()
        return (self.value[some, :longest] - covered[token]).clamp_min_(0.0).sum(dim=1)

    def cover(self, one: int, covered: Tensor) -> None:
        """Raise the coverage to what a listed candidate gives; in place."""
        number = int(self.length[one])
        token = self.token[one, :number].long()
        covered[token] = torch.maximum(covered[token], self.value[one, :number])
