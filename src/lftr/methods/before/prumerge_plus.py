"""LLaVA-PruMerge+: attended tokens and an even sample of the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from ...options.checks import Range
from ...values.source import Source
from ...values.tokens import VisualTokens
from ..operations.outliers import outlier_count
from ..operations.signals import saliency
from .prumerge import PruMerge


@dataclass(frozen=True)
class PruMergePlus(PruMerge, name="prumerge-plus"):
    """PruMerge, with a part of the kept tokens taken at equal steps through the raster.

    Of the K - 1 tokens that stay, a ``share`` are the most attended; the others are every n-th
    token, ``n`` a third of ``N`` over the number of attended ones, thinned or filled evenly where
    those are too many or too few. ``keep="auto"``, or a ``keep`` that equals its count, attends to
    the tokens whose attention exceeds ``Q3 + 1.5 IQR``, as published.

    Parameters
    ----------
    share : float
        Share of the kept tokens that is chosen by attention, in [0, 1]; the published steps come to
        about a quarter.

    Notes
    -----
    Evidence: as PruMerge.
    Differs: as PruMerge; any K (the original is adaptive only); no outlier, or more outliers than a
    third of the tokens, is defined (an error in the original).
    """

    source = Source(
        "LLaVA-PruMerge",
        arxiv="2403.15388",
        venue="ICCV 2025",
        section="3",
        code="https://github.com/42Shawn/LLaVA-PruMerge",
        function="CLIPVisionTower.token_prune_merge_advanced_plus",
    )
    share: Annotated[float, Range(0.0, 1.0)] = 0.25

    def kept(self, attention: Tensor, count: int) -> Tensor:
        order = attention.argsort(dim=1, descending=True, stable=True)
        rank = order.argsort(dim=1)
        outliers, published = _published(attention, rank)
        wish = min(count, max(1, round(self.share * count)))
        number = outliers.where(published == count, wish)
        chosen = rank < number
        chosen |= _evenly(_sampled(number, rank.shape[1]) & ~chosen, count - number)
        chosen |= _evenly(~chosen, count - chosen.sum(dim=1, keepdim=True))
        return chosen.nonzero()[:, 1].reshape(len(rank), count)

    def auto_count(self, tokens: VisualTokens) -> list[int]:
        attention, _ = saliency(tokens)
        rank = attention.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        return [count + 1 for count in _published(attention, rank)[1].squeeze(1).tolist()]


def _published(attention: Tensor, rank: Tensor) -> tuple[Tensor, Tensor]:
    """Return how many tokens ``(B, 1)`` are outliers, and how many stay with the sampled ones."""
    outliers = outlier_count(attention).clamp_min(1).unsqueeze(1)
    chosen = (rank < outliers) | _sampled(outliers, rank.shape[1])
    return outliers, chosen.sum(dim=1, keepdim=True)


def _sampled(number: Tensor, total: int) -> Tensor:
    """Return every n-th token ``(B, N)``, never the last, for ``number`` ``(B, 1)`` attended."""
    step = (total // number.clamp_min(1) // 3).clamp_min(1)
    place = torch.arange(total, device=number.device)
    return (place % step == 0) & (place < total - 1)


def _evenly(among: Tensor, count: Tensor) -> Tensor:
    """Return ``count`` ``(B, 1)`` of the marked tokens, evenly spread; all if there are fewer."""
    place, size = among.cumsum(dim=1), among.sum(dim=1, keepdim=True).clamp_min(1)
    count = count.clamp_min(0).minimum(size)
    return among & (place * count // size > (place - 1) * count // size)
