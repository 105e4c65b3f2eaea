"""Any pruning method, with the dropped tokens merged instead."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Literal

import torch
from torch import Tensor

from ...options.checks import Range
from ...values.errors import ArgumentError
from ...values.selection import Flow, Selection
from ...values.tokens import VisualTokens
from ..base import Evidence, Method
from ..operations.composing import check_composable, with_heirs
from ..operations.directions import Directions
from ..operations.flows import clusters, weighted_flow
from ..operations.signals import ENCODER, encoder_features
from .base import Wrapper, decide


@dataclass(frozen=True)
class Merge(Wrapper):
    """Merge each token that ``inner`` drops into the slot that it is most like.

    Likeness is the cosine of the encoder's features. A merged slot stands for all of its tokens,
    and attention can count it as many (`lftr.reduce`, ``weights``). Of a method that merges some
    tokens itself, the slots stay, and take in the tokens that it drops. A method that merges all of
    them (``lftr``, ``tome``, ``visionzip``...) decides as without this wrapper, and a note says so.

    Parameters
    ----------
    inner : Method or str
        The method that decides what is kept, as such or by name.
    weighting : {"mean", "similarity", "anchor"}
        "mean": all tokens of a slot count the same; "similarity": each counts by its cosine with
        the kept one, not at all below zero; "anchor": a slot keeps the features of its kept token,
        and only stands for the others.
    own : float
        Least share of the kept token in its slot, in [0, 1]; 0.6 is FastVID's.
    rounds : int
        Rounds of k-means by which the groups are improved.
    within : {"item", "frame"}
        Whether a token can flow into any slot, or only into one of its own frame or tile, where
        that has one.
    """

    inner: Method | str
    weighting: Literal["mean", "similarity", "anchor"] = "mean"
    own: Annotated[float, Range(0.0, 1.0)] = 0.0
    rounds: Annotated[int, Range(0, 100)] = 0
    within: Literal["item", "frame"] = "item"

    @property
    def evidence(self) -> Evidence:
        return tuple(dict.fromkeys((ENCODER, *super().evidence)))

    def choose(self, tokens: VisualTokens, keep: int) -> Selection:
        chosen = decide(self.methods[0], tokens, keep)
        x, notes = encoder_features(tokens)
        chosen = replace(chosen, notes=tuple(dict.fromkeys((*chosen.notes, *notes))))
        part = tokens.coordinates[:, 0] if self.within == "frame" else None
        slot, cosine = clusters(Directions.of(x), chosen.index, self.rounds, part)
        check_composable(chosen)
        if chosen.flow is not None:
            if self.weighting != "mean" or self.own:
                raise ArgumentError.of(
                    "inner",
                    str(self.methods[0]),
                    "a method that merges no tokens, with weighting or own: it averages by its own "
                    "rule",
                )
            return with_heirs(chosen, slot, self.methods[0])
        if self.weighting == "anchor":
            ones = torch.ones_like(slot, dtype=torch.float32)
            number = torch.zeros(chosen.index.shape, device=slot.device).scatter_add(1, slot, ones)
            return replace(chosen, slot_weight=number)
        similar = self.weighting == "similarity"
        weight = cosine.clamp_min(0.0) if similar else torch.ones_like(cosine)
        flow = weighted_flow(slot, weight, keep)
        if self.own > 0:
            flow = _with_anchor_share(flow, chosen.index, self.own)
        return replace(chosen, flow=flow)

    def auto_count(self, tokens: VisualTokens) -> list[int]:
        return self.methods[0].auto_count(tokens)


def _with_anchor_share(flow: Flow, index: Tensor, least: float) -> Flow:
    """Raise the share of every kept token to ``least``, at the cost of the others in its slot."""
    share = flow.weight.gather(1, index)
    raised = share.clamp_min(least)
    left = (1.0 - raised) / (1.0 - share).clamp_min(torch.finfo(share.dtype).tiny)
    weight = (flow.weight * left.gather(1, flow.slot)).scatter(1, index, raised)
    return Flow(flow.source, flow.slot, weight)
