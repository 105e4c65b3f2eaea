"""Any pruning method, with the dropped tokens merged instead."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Literal

import torch
from torch import Tensor

from ...options.checks import Range
from ...values.selection import Flow, Selection
from ...values.tokens import VisualTokens
from ..base import Method
from ..operations.flows import nearest, weighted_flow
from .base import Wrapper, decide


@dataclass(frozen=True)
class Merge(Wrapper):
    """Merge what ``inner`` drops into the nearest kept token by cosine of the features.

    A method that merges by itself is left as it is.

    Parameters
    ----------
    inner : Method or str
        The method that decides what is kept, as such or by name.
    weighting : str
        ``"mean"``: all tokens of a slot count the same; ``"similarity"``: each counts by its cosine
        with the kept one, not at all below zero.
    own : float
        Least share of the kept token in its slot, in [0, 1]; 0.6 is FastVID's.
    """

    inner: Method | str
    weighting: Literal["mean", "similarity"] = "mean"
    own: Annotated[float, Range(0.0, 1.0)] = 0.0

    def choose(self, tokens: VisualTokens, keep: int) -> Selection:
        chosen = decide(self.methods[0], tokens, keep)
        if chosen.flow is not None:
            return chosen
        slot, cosine = nearest(tokens.features, chosen.index)
        similar = self.weighting == "similarity"
        weight = cosine.clamp_min(0.0) if similar else torch.ones_like(cosine)
        flow = weighted_flow(slot, weight, keep)
        if self.own > 0:
            flow = _with_own_share(flow, chosen.index, self.own)
        return replace(chosen, flow=flow)

    def auto_count(self, tokens: VisualTokens) -> list[int]:
        return self.methods[0].auto_count(tokens)


def _with_own_share(flow: Flow, index: Tensor, least: float) -> Flow:
    """Raise the share of every kept token to ``least``, at the cost of the others in its slot."""
    share = flow.weight.gather(1, index)
    raised = share.clamp_min(least)
    left = (1.0 - raised) / (1.0 - share).clamp_min(torch.finfo(share.dtype).tiny)
    weight = (flow.weight * left.gather(1, flow.slot)).scatter(1, index, raised)
    return Flow(flow.source, flow.slot, weight)
