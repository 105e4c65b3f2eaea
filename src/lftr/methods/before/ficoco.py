"""FiCoCo after the encoder: filter redundant tokens, correlate them with others, compress."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from ...options.checks import Range
from ...values.selection import Selection
from ...values.source import Source
from ...values.tokens import VisualTokens
from ..base import Evidence, Method
from ..operations.redundancy import divided, least_useful, usefulness
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
    on 42 tokens in each of twelve layers, on each layer's own, as `lftr.EncoderFiCoCo` does).
    Redundancy is read from attention
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
        value = usefulness(attention.float().mean(dim=1), received(tokens), self.cls_weight)
        window = windows(tokens.blocks, _SIDE).to(value.device).expand_as(value)
        gone = self._least_useful(value, window, tokens.count - keep)
        order = gone.int().argsort(dim=1, stable=True)
        kept, dropped = order[:, :keep], order[:, keep:]
        metric, notes = keys(tokens)
        return Selection(kept, divided(metric, kept, dropped, self.quantile), notes)

    def _least_useful(self, value: Tensor, window: Tensor, count: int) -> Tensor:
        """Return which ``count`` tokens are dropped in all rounds, bool ``(B, N)``."""
        gone = torch.zeros_like(value, dtype=torch.bool)
        for step in range(self.rounds):
            some = count * (step + 1) // self.rounds - count * step // self.rounds
            there = value.masked_fill(gone, torch.inf)
            gone.scatter_(1, least_useful(there, window, some, self.penalty), True)
        return gone
