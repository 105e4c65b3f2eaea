"""Greedy picks by gains that only fall: gains once computed are bounds, the highest are renewed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class CandidateRows(Protocol):
    """What each candidate gives each token, and how much of it the picks cover by now.

    A candidate's row are the numbers that it gives the tokens. A token's coverage is the largest
    number that a pick gives it, at first zero; a candidate's gain is the sum of what its row
    exceeds the coverage by.
    """

    def together(self, best: int) -> tuple[Tensor, int]:
        """Return which gains are computed as cheaply as that of ``best``, and how many at once.

        The candidates are a mask, bool ``(P,)``, or one value ``(1,)`` for all.
        """
        ...

    def gain(self, some: Tensor) -> Tensor:
        """Return the gains ``(R,)`` of some candidates ``(R,)``."""
        ...

    def cover(self, pick: int) -> None:
        """Raise the coverage to what a candidate gives."""
        ...


def lazy_greedy(rows: CandidateRows, keep: int, weight: Tensor, bonus: Tensor) -> Tensor:
    """Pick, one after the other, the largest ``weight * gain + bonus`` of one item; return them.

    Coverage only grows and gains only fall, so a gain once computed is an upper bound, and only the
    highest bounds are computed anew.

    Parameters
    ----------
    rows : CandidateRows
    keep : int
        Number of picks.
    weight, bonus : Tensor, shape (P,)
        Of each candidate; weights are non-negative.

    Returns
    -------
    Tensor of int64, shape (K,)
        Positions of the picks among the candidates, in order; of equal values the first.
    """
    value = torch.full_like(weight, torch.inf)
    picks = []
    for _ in range(keep):
        exact = torch.zeros_like(weight, dtype=torch.bool)
        while not exact[best := int(value.argmax())]:
            alike, number = rows.together(best)
            bounds = value.masked_fill(exact | ~alike, -torch.inf)
            top = bounds.topk(min(number, len(value)))
            some = top.indices[top.values > -torch.inf]
            value[some] = torch.addcmul(bonus[some], rows.gain(some), weight[some])
            exact[some] = True
        picks.append(best)
        value[best] = -torch.inf
        rows.cover(best)
    return torch.tensor(picks, device=weight.device)


@dataclass(frozen=True)
class HeldRows:
    """Rows that are all held.

    Parameters
    ----------
    values : Tensor, shape (P, N)
    covered : Tensor, shape (N,)
        The coverage; changed in place.
    """

    values: Tensor
    covered: Tensor

    @classmethod
    def of(cls, values: Tensor) -> HeldRows:
        """Return rows of which nothing is picked yet."""
        return cls(values, values.new_zeros(values.shape[1]))

    def together(self, best: int) -> tuple[Tensor, int]:
        """Return that all cost alike, and how many are renewed at once."""
        return torch.ones(1, dtype=torch.bool, device=self.values.device), 32

    def gain(self, some: Tensor) -> Tensor:
        """Return the gains ``(R,)`` of some candidates ``(R,)``."""
        return (self.values[some] - self.covered).clamp_min_(0.0).sum(dim=1)

    def cover(self, pick: int) -> None:
        """Raise the coverage to what a candidate gives."""
        torch.maximum(self.covered, self.values[pick], out=self.covered)
