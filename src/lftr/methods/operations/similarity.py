"""Cosine similarities of a stack's tokens, whole where that is small, else row by row."""

from __future__ import annotations

import torch
from torch import Tensor

from ...values.indexing import take

WHOLE = 1024  # tokens up to which an item's N x N map is held; four times as many on a GPU
BLOCK = 512  # rows of the map that are held at once beyond that
SAME = 1.0 - 1e-6  # rounding lets duplicates differ in the last bits; here they are equally near


def gram(x: Tensor) -> Tensor:
    """Return all products of a stack's rows ``(B, N, C)``: ``(B, N, N)``.

    On a CPU each pair is computed once and mirrored, which nearly halves the time.
    """
    batch, total, _ = x.shape
    if total < 256 or x.device.type != "cpu":
        return torch.bmm(x, x.mT)
    out = x.new_empty(batch, total, total)
    step = max(64, total // 128 * 16)
    for low in range(0, total, step):
        high = min(low + step, total)
        block = torch.bmm(x[:, low:high], x[:, low:].mT)
        out[:, low:high, low:] = block
        out[:, high:, low:high] = block[:, :, high - low :].mT
    return out


class Similarity:
    """Rows of the cosine similarities of a stack, for rules that pick tokens one after the other.

    Up to `WHOLE` tokens all pairs are computed at once. Beyond, the rows of the tokens that are
    likely picked next are computed together, at most `BLOCK` of them, so that memory stays linear
    in N and a pick costs a share of a matrix product instead of a pass over the features.

    Parameters
    ----------
    x : Tensor, shape (B, N, C)
        Rows of length one, see `unit`.
    diagonal : float, optional
        Value of a token's similarity with itself; by default the cosine.
    whole : int, optional
        Tokens up to which all pairs are computed at once; by default `WHOLE`, on a GPU four times
        as many.
    """

    def __init__(self, x: Tensor, diagonal: float | None = None, whole: int | None = None) -> None:
        self.x = x
        self.diagonal = diagonal
        self.pairs: Tensor | None = None
        self._first = torch.arange(len(x), device=x.device) * x.shape[1]
        if whole is None:
            whole = WHOLE if x.device.type == "cpu" else 4 * WHOLE
        if x.shape[1] <= whole:
            self.pairs = gram(x).clamp_(max=SAME)
            self.fill_diagonal(diagonal)
            self._every = self.pairs.flatten(0, 1)
        else:
            self._index = self._first.new_zeros(len(x), 1)
            self._rows = x.new_zeros(len(x), 1, 1)
            self._slot = torch.full(x.shape[:2], -1, device=x.device)
            self._served = BLOCK // 16

    def fill_diagonal(self, value: float | None) -> None:
        """Write ``value`` for every token's similarity with itself; None leaves it."""
        if self.pairs is not None and value is not None:
            self.pairs.diagonal(dim1=1, dim2=2).fill_(value)

    def row(self, pick: Tensor, likely: Tensor, largest: bool = True) -> Tensor:
        """Return the similarities ``(B, N)`` of the tokens ``pick`` ``(B,)`` to all.

        Parameters
        ----------
        pick : Tensor of int64, shape (B,)
            The tokens, one an item.
        likely : Tensor, shape (B, N)
            Scores that tell which tokens will be picked soon.
        largest : bool
            Whether high scores mean soon.
        """
        if self.pairs is not None:
            return self._every.index_select(0, pick + self._first if len(pick) > 1 else pick)
        slot = self._slot.gather(1, pick.unsqueeze(1))
        if bool((slot < 0).any()):
            self._fetch(pick, likely if largest else -likely)
            slot = self._slot.gather(1, pick.unsqueeze(1))
        self._served += 1
        return take(self._rows, slot, 1).squeeze(1)

    def rows(self, index: Tensor) -> Tensor:
        """Return the similarities ``(B, M, N)`` of the tokens ``index`` ``(B, M)`` to all."""
        if self.pairs is not None:
            return take(self.pairs, index, 1)
        out = torch.bmm(take(self.x, index, 1), self.x.mT).clamp_(max=SAME)
        if self.diagonal is not None:
            out.scatter_(2, index.unsqueeze(2), self.diagonal)
        return out

    def _fetch(self, pick: Tensor, likely: Tensor) -> None:
        """Compute the rows of ``pick`` and of the likeliest; more of them the longer they serve."""
        size = min(BLOCK, max(16, 2 * self._served), likely.shape[1])
        others = likely.scatter(1, pick.unsqueeze(1), -torch.inf).topk(size - 1, dim=1).indices
        self._slot.scatter_(1, self._index, -1)
        self._index = torch.cat([pick.unsqueeze(1), others], dim=1)
        self._rows = self.rows(self._index)
        order = torch.arange(size, device=pick.device).expand_as(self._index)
        self._slot.scatter_(1, self._index, order)
        self._served = 0


def most_isolated(similarity: Similarity) -> Tensor:
    """Return the token ``(B,)`` whose nearest other token is the farthest, ties to the earlier.

    Two tokens that are each the other's nearest tie by the rule itself, so values that differ by
    rounding alone are equal here. Beyond `WHOLE` tokens, blocks of the tokens that may still be it
    are compared with all; every comparison also tightens the bound of all the others, until all
    that may be the best are exact.
    """
    x = similarity.x
    batch, total, _ = x.shape
    if similarity.pairs is not None:
        similarity.fill_diagonal(-torch.inf)
        nearest = similarity.pairs.amax(dim=2)
        similarity.fill_diagonal(similarity.diagonal)
        return _lowest(nearest).max(dim=1).indices
    nearest = torch.full((batch, total), -torch.inf, device=x.device)  # a lower bound, until exact
    exact = torch.zeros_like(nearest, dtype=torch.bool)
    index = (torch.arange(BLOCK // 2, device=x.device) * total // (BLOCK // 2)).expand(batch, -1)
    while True:
        rows = similarity.rows(index).scatter_(2, index.unsqueeze(2), -torch.inf)
        nearest = torch.maximum(nearest, rows.amax(dim=1))
        nearest.scatter_(1, index, rows.amax(dim=2))
        exact.scatter_(1, index, True)
        best = _lowest(nearest)
        if bool((exact | ~best).all()):
            return best.max(dim=1).indices
        open_ = nearest.masked_fill(exact, torch.inf)
        index = open_.topk(index.shape[1], dim=1, largest=False).indices


def _lowest(values: Tensor) -> Tensor:
    """Return where ``values`` ``(B, N)`` are the lowest of their row, but for rounding."""
    return values <= values.amin(dim=1, keepdim=True) + (1.0 - SAME)
