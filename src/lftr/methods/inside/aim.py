"""AIM's second stage: prune in every layer of the language model, by PageRank of attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from ...options.checks import Range
from ...values.selection import Selection
from ...values.source import Source
from .base import BLOCK, Heads, LayerMethod, LayerView, Reads
from .schedules import Linear, Schedule


@dataclass(frozen=True)
class AIMInside(LayerMethod, name="aim-inside"):
    """Keep the tokens that a random walk along the attention visits most, fewer in every layer.

    Both stages of AIM together are ``lftr.reduce(model, ["aim", "aim-inside"], ...)``.

    Parameters
    ----------
    schedule : Schedule
        By default an eighth of the tokens is dropped before each of eight layers, from layer 15 of
        28.
    temperature : float
        Divisor of the attention logits, above 0. The lower, the more the walk follows the largest
        one.
    iterations : int
        Number of steps of the walk, which starts at every token with equal probability.

    Notes
    -----
    Published: of Qwen2-7B's 28 layers the first 14 keep all tokens, of Vicuna-7B's 32 layers the
    first 13 (``Linear(start=14 / 32, stop=21 / 32)``).
    Differs from the original: tokens are removed, so that they take no part in later walks (there
    they are only masked in the next layer). Attention maps are computed a few heads and queries at
    a time. Counts are rounded up.
    """

    source = Source(
        "AIM",
        arxiv="2412.03248",
        venue="ICCV 2025",
        code="https://github.com/LaVi-Lab/AIM",
        function="get_importance",
        note="its pruning inside the language model",
    )
    schedule: Schedule = Linear(start=15 / 28, stop=22 / 28, end=0.0)
    temperature: Annotated[float, Range(1e-6)] = 0.1
    iterations: Annotated[int, Range(1)] = 5
    reads: ClassVar[Reads] = "previous"

    def select(self, view: LayerView, keep: int) -> Selection:
        ranks = importance(view.read, self.temperature, self.iterations)
        return Selection.top(ranks[view.visual], keep)


def importance(heads: Heads, temperature: float, iterations: int) -> Tensor:
    """Return how often walks along the attention come to each token: the quadratic mean over heads.

    Returns
    -------
    Tensor, shape (L,)
        Float32.
    """
    length, total = heads.queries.shape[1], heads.keys.shape[1]
    some = heads.split(max(1, BLOCK // (length * total)))
    squares = [_visits(part, temperature, iterations).square() for part in some]
    return torch.cat(squares).mean(dim=0).sqrt()


def _visits(heads: Heads, temperature: float, iterations: int) -> Tensor:
    """Return the shares ``(H, L)`` of each head's walks that are at each token after some steps.

    Maps that are too large to be held are made anew for every step, a block of queries at a time.
    What steps to tokens of an earlier turn is lost: their own queries are not known.
    """
    count, length, _ = heads.queries.shape
    rows = torch.arange(length, device=heads.queries.device)
    blocks = rows.split(max(1, BLOCK // (count * heads.keys.shape[1])))

    def steps(rows: Tensor) -> Tensor:
        return heads.logits(rows).div_(temperature).softmax(dim=-1)[..., heads.offset :]

    held = [steps(rows)] if len(blocks) == 1 else None
    share = torch.full((count, length), 1 / length, device=rows.device)
    for _ in range(iterations):
        arrived = torch.zeros_like(share)
        for some, map_ in zip(blocks, held or map(steps, blocks), strict=True):
            arrived += (share[:, None, some] @ map_).squeeze(1)
        share = arrived
    return share
