"""Greedy facility location: picks that together resemble every token."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from . import similarity as similar
from .dense_greedy import dense_greedy
from .directions import Directions
from .lazy_greedy import CandidateRows, HeldRows, lazy_greedy
from .listed_rows import ListedRows
from .similarity import SAME

HELD = 2**28  # entries of a map that are held at most: 1 GiB


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

    The map of candidates and tokens is held up to `HELD` entries. Beyond, its rows are computed
    when they are needed, and memory is linear in N.

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
    tokens = Directions.of(x)
    batch, total = tokens.shape
    index = torch.arange(total, device=x.device) if among is None else among
    weight = torch.ones(batch, total, device=x.device) if weight is None else weight
    bonus = torch.zeros(batch, total, device=x.device) if bonus is None else bonus
    few = total <= similar.WHOLE * (4 if x.is_cuda else 1)
    picks = []
    for b in range(batch):
        likeness = _Likeness(
            tokens.item(b), index, width, None if importance is None else importance[b].float()
        )
        factor, added = weight[b, index].float(), bonus[b, index].float()
        if few:
            picks.append(dense_greedy(likeness.whole().T.contiguous(), keep, factor, added))
            continue
        rows: CandidateRows
        if total * len(index) <= HELD:
            rows = HeldRows.of(likeness.whole())
        else:
            rows = ListedRows(likeness.rows, len(index), total, x.device)
        picks.append(lazy_greedy(rows, keep, factor, added))
    return index[torch.stack(picks)]


@dataclass(frozen=True)
class _Likeness:
    """How much candidates resemble all tokens of one item, see `facility_location`.

    Parameters
    ----------
    tokens : Directions
        Of one item.
    index : Tensor of int64, shape (P,)
        The candidates.
    width : float, optional
    importance : Tensor, shape (N,), optional
    """

    tokens: Directions
    index: Tensor
    width: float | None
    importance: Tensor | None

    def rows(self, some: Tensor) -> Tensor:
        """Return the likeness ``(R, N)`` of some candidates ``(R,)``."""
        return self._of(self.tokens.rows(self.index[some].unsqueeze(0))[0])

    def whole(self) -> Tensor:
        """Return the likeness ``(P, N)`` of all candidates."""
        every = len(self.index) == self.tokens.shape[1]
        cosine = self.tokens.gram() if every else self.tokens.rows(self.index.unsqueeze(0))
        return self._of(cosine[0])

    def _of(self, cosine: Tensor) -> Tensor:
        likeness = cosine.clamp_(max=SAME)
        if self.width is not None:
            likeness = likeness.sub_(1.0).div_(self.width).exp_()
        return likeness if self.importance is None else likeness.mul_(self.importance)
