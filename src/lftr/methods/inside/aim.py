"""AIM, its pruning half: PageRank on the attention, layer by layer, until no token is left."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...selection import Selection
from ..options import between, whole
from .base import BLOCK, Heads, LayerMethod, LayerView, Reads
from .schedules import Linear, Schedule


@dataclass(frozen=True)
class AIMInside(LayerMethod, name="aim-inside"):
    """Keep the tokens that a walk along the attention comes to most, fewer in every layer.

    AIM is whole with its merging half before: ``lftr.reduce(model, ["aim", "aim-inside"], ...)``.

    Parameters
    ----------
    schedule : Schedule
        By default an eighth of the tokens goes before each of eight layers, from 15 of 28 on.
    temperature : float
        What attention logits are divided by, above 0; low follows the strongest link alone.
    iterations : int
        Steps of the walk, which starts at every token alike.

    Notes
    -----
    Source: AIM (ICCV 2025, arXiv 2412.03248), its pruning inside the language model;
    ``get_importance``. Published: of Qwen2-7B's 28 layers 14 look at all tokens and prune; of
    Vicuna-7B's 32 layers 13 (``Linear(start=14 / 32, stop=21 / 32)``).
    Differs: rows are removed, so that what was pruned takes no further part in the walk (the
    original only masks it in the next layer); maps are made a head and a block of queries at a
    time; counts are rounded up.
    """

    schedule: Schedule = Linear(start=15 / 28, stop=22 / 28, end=0.0)
    temperature: float = 0.1
    iterations: int = 5
    reads: ClassVar[Reads] = "previous"

    def __post_init__(self) -> None:
        between("temperature", self.temperature, 1e-6)
        whole("iterations", self.iterations, 1)

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
    squares = [_visits(head, temperature, iterations).square() for head in heads.each()]
    return torch.stack(squares).mean(dim=0).sqrt()


def _visits(head: Heads, temperature: float, iterations: int) -> Tensor:
    """Return the shares ``(L,)`` of walks that are at each token after some steps.

    What steps to tokens of an earlier turn is lost: their own queries are not known.
    """
    length, total = head.queries.shape[1], head.keys.shape[1]
    blocks = torch.arange(length, device=head.queries.device).split(max(1, BLOCK // total))

    def steps(rows: Tensor) -> Tensor:
        return (head.logits(rows)[0] / temperature).softmax(dim=-1)[:, head.offset :]

    held = [steps(blocks[0])] if len(blocks) == 1 else None
    share = torch.full((length,), 1 / length, device=head.queries.device)
    for _ in range(iterations):
        arrived = torch.zeros_like(share)
        for rows, map_ in zip(blocks, held or map(steps, blocks), strict=True):
            arrived += share[rows] @ map_
        share = arrived
    return share
