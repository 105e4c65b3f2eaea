"""PruMerge+: PruMerge with evenly spaced tokens added to the most attended ones."""

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
    """PruMerge, with part of the kept tokens chosen at equal steps in raster order.

    A ``share`` of the K - 1 kept tokens are the most attended ones. The others are every n-th
    token, where ``n`` is a third of ``N`` divided by the number of attended tokens; some are left
    out, or others added, evenly, if these are too many or too few. With ``keep="auto"``, or a
    ``keep`` equal to its count, the attended tokens are those whose attention exceeds ``Q3 + 1.5
    IQR``, as published.

    Parameters
    ----------
    share : float
        Share in [0, 1] of the kept tokens that are chosen by attention; about a quarter as
        published.

    Notes
    -----
    Evidence: as for PruMerge.
    Differs from the original: as PruMerge; any K is possible (there only the adaptive count). No
    outlier, or more outliers than a third of the tokens, is allowed (there an error).
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
        outliers, published = _published_counts(attention, rank)
        wish = min(count, max(1, round(self.share * count)))
        number = outliers.where(published == count, wish)
        chosen = rank < number
        chosen |= _spread_marked(_sample(number, rank.shape[1]) & ~chosen, count - number)
        chosen |= _spread_marked(~chosen, count - chosen.sum(dim=1, keepdim=True))
        return chosen.nonzero()[:, 1].reshape(len(rank), count)

    def auto_count(self, tokens: VisualTokens) -> list[int]:
        attention, _ = saliency(tokens)
        rank = attention.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        return [count + 1 for count in _published_counts(attention, rank)[1].squeeze(1).tolist()]


def _published_counts(attention: Tensor, rank: Tensor) -> tuple[Tensor, Tensor]:
    """Return how many tokens ``(B, 1)`` are outliers, and how many stay with the sampled ones."""
    outliers = outlier_count(attention).clamp_min(1).unsqueeze(1)
    chosen = (rank < outliers) | _sample(outliers, rank.shape[1])
    return outliers, chosen.sum(dim=1, keepdim=True)


def _sample(number: Tensor, total: int) -> Tensor:
    """Return every n-th token ``(B, N)``, never the last, for ``number`` ``(B, 1)`` attended."""
    step = (total // number.clamp_min(1) // 3).clamp_min(1)
    place = torch.arange(total, device=number.device)
    return (place % step == 0) & (place < total - 1)


def _spread_marked(among: Tensor, count: Tensor) -> Tensor:
    """Return ``count`` ``(B, 1)`` of the marked tokens, evenly spread; all if there are fewer."""
    place, size = among.cumsum(dim=1), among.sum(dim=1, keepdim=True).clamp_min(1)
    count = count.clamp_min(0).minimum(size)
    return among & (place * count // size > (place - 1) * count // size)
