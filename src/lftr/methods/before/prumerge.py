"""LLaVA-PruMerge: the most attended tokens, each with its neighbours added, and the rest as one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from ...options.checks import Range
from ...values.indexing import take
from ...values.selection import Flow, Selection
from ...values.source import Source
from ...values.tokens import VisualTokens
from ..base import Evidence, Method
from ..operations.flows import BLOCK
from ..operations.outliers import outlier_count
from ..operations.scaling import unit
from ..operations.signals import KEYS, SALIENCY, keys, saliency


@dataclass(frozen=True)
class PruMerge(Method, name="prumerge"):
    """Keep the K - 1 most attended tokens, add similar tokens to each, and append the rest as one.

    To each kept token, the sum of its nearest neighbours is added, kept or not, each weighted by
    its attention. Neighbours are found by the cosine of keys. The last slot is the sum of all
    dropped tokens, weighted by attention, and stands at the position of the last of them.
    ``keep="auto"`` keeps the tokens whose attention exceeds ``Q3 + 1.5 IQR``, and that slot.

    Parameters
    ----------
    neighbours : int
        Number of neighbours added to each kept token; 32 as published.

    Notes
    -----
    Evidence: CLS attention, or the attention received; keys, or features.
    Differs from the original: attention is that of the encoder, averaged over heads (there of one
    head as wide as the model, computed for the purpose); slots are in raster order (there by
    attention); "auto" counts within each item (there over the batch, as ``int(N * (count / N))``,
    which at some sizes, such as N = 729, is one less).
    """

    source = Source(
        "LLaVA-PruMerge",
        arxiv="2403.15388",
        venue="ICCV 2025",
        section="3",
        code="https://github.com/42Shawn/LLaVA-PruMerge",
        function="CLIPVisionTower.token_prune_merge_advanced",
    )
    neighbours: Annotated[int, Range(0)] = 32

    @property
    def evidence(self) -> Evidence:
        return (SALIENCY, KEYS)

    def choose(self, tokens: VisualTokens, keep: int) -> Selection:
        attention, notes = saliency(tokens)
        compared, more = keys(tokens)
        kept = self.kept(attention, keep - 1)
        neighbours = _nearest_others(compared, kept, min(self.neighbours, tokens.count - 1))
        index, flow = _gather_neighbours(attention, kept, neighbours)
        return Selection(index, flow, notes + more)

    def kept(self, attention: Tensor, count: int) -> Tensor:
        """Return the ``count`` tokens that stay, ascending, by their attention ``(B, N)``."""
        order = attention.argsort(dim=1, descending=True, stable=True)
        return order[:, :count].sort(dim=1).values

    def auto_count(self, tokens: VisualTokens) -> list[int]:
        return [count + 1 for count in outlier_count(saliency(tokens)[0]).tolist()]


def _gather_neighbours(attention: Tensor, kept: Tensor, neighbours: Tensor) -> tuple[Tensor, Flow]:
    """Return anchors and flow: kept tokens with their neighbours, and the slot of the dropped."""
    batch, count, near = neighbours.shape
    free = torch.ones_like(attention, dtype=torch.bool).scatter_(1, kept, False)
    dropped = free.nonzero()[:, 1].reshape(batch, -1)
    place = torch.arange(count, device=kept.device).expand(batch, -1)
    others = torch.cat([neighbours.flatten(1), dropped], dim=1)
    blind = attention.gather(1, dropped).sum(dim=1, keepdim=True) <= 0  # then the plain mean
    attention = attention.masked_fill(blind, 1.0 / dropped.shape[1])
    kept_weight = torch.ones_like(kept, dtype=torch.float32)
    slot = torch.cat([place, place.repeat_interleave(near, 1), torch.full_like(dropped, count)], 1)
    source = torch.cat([kept, others], dim=1)
    weight = torch.cat([kept_weight, attention.gather(1, others)], dim=1)
    return torch.cat([kept, dropped[:, -1:]], dim=1), Flow(source, slot, weight)


def _nearest_others(x: Tensor, index: Tensor, count: int) -> Tensor:
    """Return the ``count`` other tokens ``(B, M, count)`` nearest by cosine to each of ``index``.

    Ties go to the earlier token. In blocks, so that memory stays linear in N.
    """
    x, (batch, total, _) = unit(x), x.shape
    step = max(1, BLOCK // (total * batch))
    out = []
    for part in index.split(step, dim=1):
        cosine = torch.bmm(take(x, part, 1), x.mT)
        cosine.scatter_(2, part.unsqueeze(2), -torch.inf)
        out.append(_top(cosine, count))
    return torch.cat(out, dim=1) if out else index.new_zeros(batch, 0, count)


def _top(scores: Tensor, count: int) -> Tensor:
    """Return the places of the ``count`` highest along the last dimension, ties to the earlier."""
    if count == 0:
        return torch.zeros(*scores.shape[:-1], 0, dtype=torch.int64, device=scores.device)
    least = scores.topk(count, dim=-1).values[..., -1:]
    over, level = scores > least, scores == least
    level &= level.cumsum(dim=-1) <= count - over.sum(dim=-1, keepdim=True)
    return (over | level).nonzero()[:, -1].reshape(*scores.shape[:-1], count)
