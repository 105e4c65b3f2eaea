"""Tokens of which only the directions count, compared without a copy at length one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...values.indexing import take
from .scaling import with_lengths

FEW = 64  # rows up to which a product is faster the other way round


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


@dataclass(frozen=True)
class Directions:
    """Tokens of which only the directions count, by one kind of features or several side by side.

    The features stay as they are. Their products are multiplied by what brings tokens to length
    one, which costs less than a copy of the features.

    Attributes
    ----------
    parts : tuple of Tensor, shapes (B, N, D)
        The kinds of features, float32.
    factors : tuple of Tensor, shape (B, N)
        For each kind, what brings a token to length one; 0 where it is zero.
    """

    parts: tuple[Tensor, ...]
    factors: tuple[Tensor, ...]

    @classmethod
    def of(cls, *features: Tensor) -> Directions:
        """Return the directions of features ``(B, N, D)``, of which each kind counts the same.

        Rows whose length would over- or underflow are scaled in a copy, see `with_lengths`.
        """
        measured = [with_lengths(x) for x in features]
        parts = tuple(x for x, _ in measured)
        lengths = torch.stack([length for _, length in measured])
        number = (lengths > 0).sum(dim=0)
        factors = (lengths * number.sqrt()).reciprocal().where(lengths > 0, 0.0)
        return cls(parts, tuple(factors.unbind(0)))

    @property
    def shape(self) -> torch.Size:
        """Items and tokens of each, ``(B, N)``."""
        return self.factors[0].shape

    @property
    def device(self) -> torch.device:
        """Where the features are."""
        return self.factors[0].device

    def take(self, index: Tensor) -> Directions:
        """Return those of the tokens ``index`` ``(B, M)``."""
        return Directions(
            tuple(take(x, index, 1) for x in self.parts),
            tuple(factor.gather(1, index) for factor in self.factors),
        )

    def item(self, i: int) -> Directions:
        """Return those of item ``i``, as a stack of one."""
        return Directions(
            tuple(x[i : i + 1] for x in self.parts), tuple(f[i : i + 1] for f in self.factors)
        )

    def joined(self) -> tuple[Tensor, Tensor]:
        """Return all kinds side by side, ``(B, N, D)``, and the length ``(B, N)`` of each token."""
        if len(self.parts) == 1:
            return self.parts[0], self.factors[0].reciprocal()
        pairs = zip(self.parts, self.factors, strict=True)
        whole = torch.cat([x * factor.unsqueeze(2) for x, factor in pairs], dim=2)
        return whole, torch.ones_like(self.factors[0])

    def rows(self, index: Tensor, others: slice = slice(None)) -> Tensor:
        """Return the cosines ``(B, M, N)`` of the tokens ``index`` ``(B, M)`` with all others.

        With ``others``, with those tokens alone.
        """
        total: Tensor | None = None
        for x, factor in zip(self.parts, self.factors, strict=True):
            some = take(x, index, 1) * factor.gather(1, index).unsqueeze(2)
            if index.shape[1] > FEW:
                product = torch.bmm(some, x[:, others].mT)
            else:
                product = torch.bmm(x[:, others], some.mT).mT
            product *= factor[:, None, others]
            total = product if total is None else total.add_(product)
        assert total is not None
        return total

    def gram(self) -> Tensor:
        """Return the cosines ``(B, N, N)`` of all pairs."""
        total: Tensor | None = None
        for x, factor in zip(self.parts, self.factors, strict=True):
            product = gram(x).mul_(factor.unsqueeze(1)).mul_(factor.unsqueeze(2))
            total = product if total is None else total.add_(product)
        assert total is not None
        return total

    def to_mean(self, groups: int = 1) -> Tensor:
        """Return the cosine ``(B, N)`` of each token with the mean direction of its group.

        The groups are equal parts of the tokens, in order, such as frames.
        """
        batch, total = self.shape
        size = torch.zeros(batch * groups, 1, device=self.device)
        products = []
        for x, factor in zip(self.parts, self.factors, strict=True):
            by_group = x.reshape(batch * groups, total // groups, -1)
            weight = factor.reshape(batch * groups, 1, -1)
            mean = torch.bmm(weight, by_group) / weight.shape[2]
            size += mean.square().sum(dim=2)
            product = torch.bmm(mean, by_group.mT)
            products.append(product.reshape(batch, total).mul_(factor))
        length = size.sqrt().clamp_min(torch.finfo(size.dtype).tiny)
        return (
            sum(products[1:], products[0])
            .view(batch, groups, -1)
            .div_(length.view(batch, groups, 1))
            .view(batch, total)
        )
