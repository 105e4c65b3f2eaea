"""Keep what resembles the prompt's last token, never two tokens that say the same."""

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
    """Keep by similarity to the last token's state, skipping what resembles a kept token.

    Parameters
    ----------
    schedule : Schedule
        By default half of the tokens from layer 2 on, counted from 0.
    layer, keep
        Short for ``schedule=Step(layer, keep)``.
    threshold : float
        Cosine above which a token counts as said already, from -1 to 1.

    Notes
    -----
    The layer is our choice, 0.9 the value of a third party's port.
    Differs: where fewer than K tokens pass, the skipped ones follow by their similarity to the last
    token, so that K is exact. `greedy-nms` is the same rule before the language model.
    """

    source = Source("GreedyPrune", arxiv="2506.13166", algorithm="1", note="its code is not public")
    threshold: Annotated[float, Range(-1.0, 1.0)] = 0.9

    def select(self, view: LayerView, keep: int) -> Selection:
        x = view.states[None, view.visual]
        scores = mean_cosine(x, view.states[None, view.last])
        return Selection(suppress(x, scores, keep, float(self.threshold))[0])
