"""Rows for `lazy_greedy` that are computed when they are needed, and stored where they are short.

A row that exceeds the coverage of few tokens never exceeds that of others again. It is stored as a
list of those tokens and not computed again.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

LIST = 512  # entries of all lists together, for each token
BLOCK = 64  # rows that are computed together
FEW = 16  # lists that are looked at together


class ListedRows:
    """Rows of which memory holds `LIST` entries for each token, and `BLOCK` whole ones at a time.

    Parameters
    ----------
    rows : function from int64 (R,) to (R, N)
        Computes the rows of some candidates.
    count, total : int
        Number of candidates P, and of tokens N.
    device : torch.device
        Where rows are.
    """

    def __init__(
        self, rows: Callable[[Tensor], Tensor], count: int, total: int, device: torch.device
    ) -> None:
        self._rows = rows
        self._covered = torch.zeros(total, device=device)
        self._longest = min(total, LIST * total // count)
        self._token = torch.zeros(count, self._longest, dtype=torch.int32, device=device)
        self._value = torch.full((count, self._longest), -torch.inf, device=device)
        self._length = torch.zeros(count, dtype=torch.int64, device=device)
        self._listed = torch.zeros(count, dtype=torch.bool, device=device)

    def together(self, best: int) -> tuple[Tensor, int]:
        """Return who is listed if ``best`` is, else who is not, and how many cost little."""
        listed = bool(self._listed[best])
        return self._listed == listed, FEW if listed else BLOCK

    def gain(self, some: Tensor) -> Tensor:
        """Return the gains ``(R,)`` of candidates ``(R,)`` that are all listed, or all not."""
        if not self._listed[some[0]]:
            return self._enter(some, self._rows(some))
        length = max(1, int(self._length[some].amax()))
        token = self._token[some, :length].long()
        return (self._value[some, :length] - self._covered[token]).clamp_min_(0.0).sum(dim=1)

    def cover(self, pick: int) -> None:
        """Raise the coverage to what a candidate gives."""
        if not self._listed[pick]:
            row = self._rows(torch.tensor([pick], device=self._covered.device))[0]
            torch.maximum(self._covered, row, out=self._covered)
            return
        number = int(self._length[pick])
        token = self._token[pick, :number].long()
        self._covered[token] = torch.maximum(self._covered[token], self._value[pick, :number])

    def _enter(self, some: Tensor, rows: Tensor) -> Tensor:
        """Return the gains ``(R,)`` of whole rows ``(R, N)``, and list those that are short."""
        excess = (rows - self._covered).clamp_min_(0.0)
        number = excess.count_nonzero(dim=1)
        short = (number <= self._longest).nonzero().squeeze(1)
        at, token = excess[short].nonzero(as_tuple=True)
        length, candidate = number[short], some[short]
        place = torch.arange(len(at), device=at.device) - (length.cumsum(0) - length)[at]
        self._token[candidate[at], place] = token.int()
        self._value[candidate[at], place] = rows[short[at], token]
        self._length[candidate] = length
        self._listed[candidate] = True
        return excess.sum(dim=1)
