"""FiCoCo after the encoder: filter redundant tokens, correlate them with others, compress."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ...options.checks import Range
from ...values.indexing import take
from ...values.selection import Flow, Selection
from ...values.source import Source
from ...values.tokens import VisualTokens
from ..base import Evidence, Method
from ..operations.scaling import unit
from ..operations.signals import KEYS, keys, received
from ..operations.windows import windows

_SIDE = 2  # rows and columns of a window, as in the program


@dataclass(frozen=True)
class FiCoCo(Method, name="ficoco"):
    """Drop tokens that many attend to and the CLS token does not; merge them into others like them.

    Filter: a token is redundant by the attention that it receives from all tokens, less that of the
    CLS token. In every window of two by two tokens the most redundant one counts as more redundant,
    so that dropped tokens are spread over the image. Tokens are dropped in several rounds.
    Correlate and compress: each dropped token is divided among the kept tokens most similar to it,
    by the softmax of the similarities. A kept token becomes the mean of itself, with weight one,
    and of what it gets.

    Parameters
    ----------
    cls_weight : float
        Weight in [0, 1] of the CLS token's attention; that of all tokens has the rest.
    penalty : float
        Factor, at least 1, by which the most redundant token of a window counts as more redundant;
        1 for none.
    rounds : int
        In how many rounds tokens are dropped. In each, every window has another such token.
    quantile : float
        Share in [0, 1] of the kept tokens among which a dropped token is not divided; at least one
        kept token gets it.

    Notes
    -----
    Evidence: CLS attention, the attention received, keys.
    No licence was stated for the program; this follows the paper.
    Differs from the original: acts once, after the encoder, on the attention of one layer (there
    on 42 tokens in each of twelve layers, on each layer's own). Redundancy is read from attention
    after its softmax, and similarity is the cosine of keys (there both are the products of queries
    and keys before it). Kept tokens alone receive dropped ones. Chosen here: the twelve rounds.
    """

    source = Source(
        "FiCoCo",
        arxiv="2411.17686",
        venue="AAAI 2026",
        code="https://github.com/kawhiiiileo/FiCoCo",
        note="FiCoCo-V, once, after the encoder",
    )
    cls_weight: Annotated[float, Range(0.0, 1.0)] = 0.35
    penalty: Annotated[float, Range(1.0)] = 2.0
    rounds: Annotated[int, Range(1, 100)] = 12
    quantile: Annotated[float, Range(0.0, 1.0)] = 0.998

    @property
    def evidence(self) -> Evidence:
        return (("cls_attention",), ("attention_received", "attention"), KEYS)

    def choose(self, tokens: VisualTokens, keep: int) -> Selection:
        _, attention = tokens.evidence("cls_attention")
        value = self.cls_weight * normalize(attention.float().mean(dim=1), dim=1)
        value = value - (1.0 - self.cls_weight) * normalize(received(tokens), dim=1)
        window = windows(tokens.blocks, _SIDE).to(value.device).expand_as(value)
        gone = self._least_valued(value, window, tokens.count - keep)
        order = gone.int().argsort(dim=1, stable=True)
        kept, dropped = order[:, :keep], order[:, keep:]
        metric, notes = keys(tokens)
        near = unit(metric.float())
        alike = take(near, dropped, 1) @ take(near, kept, 1).mT
        targets = max(1, keep - 1 - int(self.quantile * (keep - 1)))
        best = alike.topk(targets, dim=2)
        return Selection(kept, _flow(kept, dropped, best.indices, best.values.softmax(2)), notes)

    def _least_valued(self, value: Tensor, window: Tensor, count: int) -> Tensor:
        """Return which ``count`` tokens are dropped, bool ``(B, N)``: those of the least value."""
        gone = torch.zeros_like(value, dtype=torch.bool)
        number = int(window.max()) + 1
        for step in range(self.rounds):
            some = count * (step + 1) // self.rounds - count * step // self.rounds
            there = value.masked_fill(gone, torch.inf)
            least = there.new_full((len(value), number), torch.inf)
            least = least.scatter_reduce(1, window, there, "amin").gather(1, window)
            lower = torch.where(value > 0, value / self.penalty, value * self.penalty)
            there = torch.where(there == least, lower, value).masked_fill(gone, torch.inf)
            gone.scatter_(1, there.argsort(dim=1, stable=True)[:, :some], True)
        return gone


def _flow(kept: Tensor, dropped: Tensor, slot: Tensor, share: Tensor) -> Flow:
    """Return the flow of dropped tokens into slots ``(B, D, T)``, by shares of each."""
    slot, share = slot.flatten(1), share.flatten(1)
    source = dropped.repeat_interleave(slot.shape[1] // dropped.shape[1], dim=1)
    kept_slots = torch.arange(kept.shape[1], device=kept.device).expand_as(kept)
    slot, source = torch.cat([kept_slots, slot], dim=1), torch.cat([kept, source], dim=1)
    share = torch.cat([torch.ones_like(kept_slots, dtype=share.dtype), share], dim=1)
    load = torch.zeros_like(kept_slots, dtype=share.dtype).scatter_add(1, slot, share)
    return Flow(source, slot, share / load.gather(1, slot))
