"""GreedyPrune: rank by similarity to the last token, skip near-duplicates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from ...options.checks import Range
from ...values.selection import Selection
from ...values.source import Source
from ..operations.greedy import suppress
from ..operations.scaling import mean_cosine
from .base import LayerView
from .one_cut import OneCut


@dataclass(frozen=True)
class GreedyPrune(OneCut, name="greedyprune"):
    """Keep tokens by similarity to the last token's state; skip those that resemble a kept token.

    Parameters
    ----------
    schedule : Schedule
        By default half of the tokens from layer 2 on, counted from 0.
    layer, keep
        Short for ``schedule=Step(layer, keep)``.
    threshold : float
        Cosine with a kept token, in [-1, 1], above which a token is skipped.

    Notes
    -----
    The default layer is our choice; 0.9 is the value of a third party's port.
    Differs from the original: if fewer than K tokens pass, skipped ones follow by similarity to the
    last token, so that K is exact. `greedy-nms` is the same rule before the language model.
    """

    source = Source("GreedyPrune", arxiv="2506.13166", algorithm="1", note="its code is not public")
    threshold: Annotated[float, Range(-1.0, 1.0)] = 0.9

    def select(self, view: LayerView, keep: int) -> Selection:
        x = view.states[None, view.visual]
        scores = mean_cosine(x, view.states[None, view.last])
        return Selection(suppress(x, scores, keep, float(self.threshold))[0])
