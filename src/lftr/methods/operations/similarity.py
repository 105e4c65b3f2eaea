"""Cosine similarities of a stack's tokens, whole where that is small, else row by row."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from ...values.indexing import take
from .directions import Directions

WHOLE = 1024  # tokens up to which an item's N x N map is held; four times as many on a GPU
BLOCK = 512  # rows of the map that are held at once beyond that
SAME = 1.0 - 1e-6  # rounding lets duplicates differ in the last bits; here they are equally near


class Similarity:
    """Rows of the cosine similarities of a stack, for rules that pick tokens one after the other.

    Up to `WHOLE` tokens, where many of them are picked, all pairs are computed at once. Otherwise
    the rows of the tokens that are likely picked next are computed together, at most `BLOCK` of
    them, so that memory stays linear in N and a pick costs a share of a matrix product instead of a
    pass over the features.

    Parameters
    ----------
    tokens : Directions
    picks : int
        How many rows will be asked for, of each item.
    diagonal : float, optional
        Value of a token's similarity with itself; by default the cosine.
    """

    def __init__(self, tokens: Directions, picks: int, diagonal: float | None = None) -> None:
        self.tokens = tokens
        self.diagonal = diagonal
        self._picks = picks
        self._known: list[dict[int, Tensor]] = [{} for _ in range(tokens.shape[0])]
        self._served = [0] * tokens.shape[0]

    @cached_property
    def pairs(self) -> Tensor | None:
        """All similarities ``(B, N, N)``, if they are computed at once."""
        total, gpu = self.tokens.shape[1], self.tokens.device.type != "cpu"
        if total > (4 * WHOLE if gpu else WHOLE) or not (gpu or self._picks > total // 6):
            return None
        pairs = self.tokens.gram().clamp_(max=SAME)
        if self.diagonal is not None:
            pairs.diagonal(dim1=1, dim2=2).fill_(self.diagonal)
        return pairs

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
            return take(self.pairs, pick.unsqueeze(1), 1).squeeze(1)
        rows = []
        for item, token in enumerate(pick.tolist()):
            if token not in self._known[item]:
                self._fetch(item, pick[item : item + 1], likely[item] if largest else -likely[item])
            rows.append(self._known[item][token])
            self._served[item] += 1
        return torch.stack(rows) if len(rows) > 1 else rows[0].unsqueeze(0)

    def rows(self, index: Tensor) -> Tensor:
        """Return the similarities ``(B, M, N)`` of the tokens ``index`` ``(B, M)`` to all."""
        if self.pairs is not None:
            return take(self.pairs, index, 1)
        return self._rows(self.tokens, index)

    def held(self, index: Tensor) -> Tensor | None:
        """Return the rows ``(B, M, N)`` of tokens ``(B, M)`` if all were computed before."""
        if self.pairs is not None:
            return take(self.pairs, index, 1)
        requests = list(zip(self._known, index.tolist(), strict=True))
        if not all(known.keys() >= set(tokens) for known, tokens in requests):
            return None
        return torch.stack(
            [torch.stack([known[token] for token in tokens]) for known, tokens in requests]
        )

    def _rows(self, tokens: Directions, index: Tensor) -> Tensor:
        out = tokens.rows(index).clamp_(max=SAME)
        if self.diagonal is not None:
            out.scatter_(2, index.unsqueeze(2), self.diagonal)
        return out

    def _fetch(self, item: int, pick: Tensor, likely: Tensor) -> None:
        """Compute the rows of ``pick`` and of the tokens that are likely to be picked next.

        Their number grows with the number of picks that the previous rows were used for. An item's
        rows are computed separately, so that they do not depend on the other items.
        """
        known = self._known[item]
        size = min(BLOCK, max(32, 2 * self._served[item]), len(likely))
        likely = likely.clone()
        if len(likely) > WHOLE:
            known.clear()
        elif known:
            likely[list(known)] = -torch.inf
        likely[pick] = -torch.inf
        index = torch.cat([pick, likely.topk(size - 1).indices])
        rows = self._rows(self.tokens.item(item), index.unsqueeze(0))[0]
        known.update(zip(index.tolist(), rows.unbind(0), strict=True))
        self._served[item] = 0


def most_isolated(similarity: Similarity) -> Tensor:
    """Return the token ``(B,)`` whose nearest other token is the farthest, ties to the earlier.

    Two tokens that are each the other's nearest tie by the rule itself, so values that differ by
    rounding alone are equal here. Beyond `WHOLE` tokens, blocks of the tokens that may still be it
    are compared with all; every comparison also tightens the bound of all the others, until all
    that may be the best are exact.
    """
    batch, total = similarity.tokens.shape
    device = similarity.tokens.device
    if similarity.pairs is not None:
        similarity.fill_diagonal(-torch.inf)
        nearest = similarity.pairs.amax(dim=2)
        similarity.fill_diagonal(similarity.diagonal)
        return _lowest(nearest).max(dim=1).indices
    nearest = torch.full((batch, total), -torch.inf, device=device)  # a lower bound, until exact
    exact = torch.zeros_like(nearest, dtype=torch.bool)
    index = (torch.arange(BLOCK // 2, device=device) * total // (BLOCK // 2)).expand(batch, -1)
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
