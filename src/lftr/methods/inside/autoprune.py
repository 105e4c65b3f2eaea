"""AutoPrune: a pruning curve whose slope depends on the prompt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from ...options.checks import Range
from ...values.selection import Selection
from ...values.source import Source
from ..operations.recycling import recycled
from .base import LayerMethod, LayerView, Reads
from .options import Layer, check_layer
from .schedules import Logistic, Schedule, scale


@dataclass(frozen=True)
class AutoPrune(LayerMethod, name="autoprune"):
    """Prune along a logistic curve whose slope depends on the prompt, within the schedule's budget.

    At the first layer that prunes, the slope is computed from the mutual information between text
    and visual tokens in the attention: the higher it is, the flatter the curve, and the earlier
    tokens are dropped. Each layer keeps the tokens to which the text attends most, averaged over
    heads and text tokens. Some of the others are merged and kept, as in `SparseVLM`.

    Parameters
    ----------
    schedule : Schedule
        The budget, as a sum over the layers, and the first layer that prunes.
    centre : int or float
        Layer at which the curve is at one half.
    slope, gamma : float
        The steepness of the curve per layer is ``max(slope - gamma * information, 0)``. The
        information is in nats, summed over heads.
    recycle : float
        Share in [0, 1] of the dropped tokens that is merged and kept; 0 keeps none of them.

    Notes
    -----
    ``centre`` is published as 14.9 of 32 layers.
    Differs from the original: counts are exact and include the merged clusters. The original also
    prunes before the language model, to 2.5 times the budget by the attention of the vision encoder
    (combine with `fastervlm`). The attention of each head is normalised over text and image
    together before the information is computed.
    """

    source = Source(
        "AutoPrune",
        arxiv="2509.23931",
        venue="NeurIPS 2025",
        note='"Each Complexity Deserves a Pruning Policy"',
    )
    schedule: Schedule = Logistic(centre=14.9 / 32, slope=0.4, start=1)
    centre: Layer = 14.9 / 32
    slope: Annotated[float, Range(0.0)] = 0.4
    gamma: Annotated[float, Range(0.0)] = 0.2
    recycle: Annotated[float, Range(0.0, 1.0)] = 0.3
    reads: ClassVar[Reads] = "previous"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_layer("centre", self.centre)

    def watches(self, depth: int) -> frozenset[int]:
        return frozenset(range(1, depth))

    def count(self, view: LayerView, planned: int) -> int:
        if "counts" not in view.memory:
            plan = self.schedule.counts(view.tokens, view.depth)
            if plan[view.layer] == view.tokens:
                return planned
            view.memory["counts"] = self._counts(view, plan[view.layer :])
        count: int = view.memory["counts"][view.layer]
        return count

    def select(self, view: LayerView, keep: int) -> Selection:
        scores = view.received(view.asking)
        return recycled(view.states[view.visual], scores, keep, self.recycle)

    def _counts(self, view: LayerView, plan: list[int]) -> list[int]:
        """Return the curve for this prompt, of the same sum as the plan from this layer on."""
        slope = max(self.slope - self.gamma * mutual_information(view), 0.0)
        curve = Logistic(self.centre, slope, start=view.layer).counts(view.tokens, view.depth)
        shape = [
            count if left else 0 for count, left in zip(curve[view.layer :], plan, strict=True)
        ]
        return [view.tokens] * view.layer + scale(shape, sum(plan), view.tokens)


def mutual_information(view: LayerView) -> float:
    """Return the mutual information of text and visual tokens in the attention, summed over heads.

    In nats. A head's attention of all text to all visual tokens, divided by its sum, is the joint
    distribution.
    """
    heads = len(view.read.queries)
    inside = torch.zeros(heads, device=view.states.device)
    image = torch.zeros(heads, len(view.visual), device=view.states.device)
    for _, attention in view.attention(view.asking):
        inside += _entropic(attention).sum(dim=1) - _entropic(attention.sum(dim=2))
        image += attention.sum(dim=1)
    whole = image.sum(dim=1).clamp_min(1e-30)
    information = (inside - _entropic(image)) / whole + whole.log()
    return float(information.clamp_min(0.0).sum())


def _entropic(x: Tensor) -> Tensor:
    """Return the sum of ``x log x`` over the last dimension."""
    return torch.xlogy(x, x).sum(dim=-1)
