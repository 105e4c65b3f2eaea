"""HiPrune: tokens that a middle and a late encoder layer attend to."""

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
from ..operations.signals import TEXT, Notes, TextSign, received, stand_in, text_relevance


@dataclass(frozen=True)
class HiPrune(Method, name="hiprune"):
    """Keep what a middle encoder layer attends to, with its neighbours, then what a late one does.

    Anchors are the tokens that receive the most attention in a middle layer. They are kept together
    with their four neighbours in the grid. The rest of the budget goes to the tokens that receive
    the most attention in the last layer used. With ``text_share``, part of it goes to the tokens
    most relevant to the text instead (HiPrune++).

    Parameters
    ----------
    alpha : float
        Share of the budget for anchors and their neighbours, in [0, 1].
    text_share : float
        Share of the budget for the text, in [0, 1]; 0.1 in HiPrune++.
    text_sign : {"published", "positive", "negative"}
        Whether tokens near the text count as relevant or those far from it; as published, those far
        from it in CLIP, and those near it without CLIP.

    Notes
    -----
    Attention is averaged over heads and all queries.
    Evidence: ``attention_received_shallow`` of layer 9 of 24 (CLIP) or 16 of 32 (Qwen2.5-VL), and
    ``attention_received`` of the last layer used, which is also taken where the former is missing;
    for the text, CLIP's embeddings or the prompt's own.
    Differs from the original: neighbours are those in the grid (there they wrap around the ends of
    rows). The text's share is part of the budget, so that K is exact.
    """

    source = Source(
        "HiPrune",
        arxiv="2508.00553",
        section="4",
        code="https://github.com/Danielement321/HiPrune",
        function="LlavaMetaForCausalLM.encode_images",
    )
    alpha: Annotated[float, Range(0.0, 1.0)] = 0.1
    text_share: Annotated[float, Range(0.0, 1.0)] = 0.0
    text_sign: TextSign = "published"

    @property
    def evidence(self) -> Evidence:
        attention: Evidence = (
            ("attention_received",),
            ("attention_received_shallow", "attention_received"),
        )
        text: Evidence = (TEXT, ("visual_projected", "features"))
        return attention + text if self.text_share > 0 else attention

    def choose(self, tokens: VisualTokens, keep: int) -> Selection:
        deep = received(tokens)
        notes: Notes = ()
        shallow = tokens.attention_received_shallow
        if shallow is None:
            shallow, notes = deep, stand_in("attention_received", "attention_received_shallow")
        anchors = _first(shallow.float(), round(keep * self.alpha / 5))
        around = _adjacent(anchors, tokens.coordinates)
        # one order of all tokens: anchors, neighbours, then by the deep layer's attention
        order = _ranks(deep) - tokens.count * (around.int() + 2 * anchors.int())
        if self.text_share == 0:
            return Selection.top(-order, keep, notes)
        relevance, more = text_relevance(tokens, self.text_sign)
        seen = _first(-order, keep - round(keep * self.text_share))
        return Selection.top(seen.int() * 2 * tokens.count - _ranks(relevance), keep, notes + more)


def _ranks(scores: Tensor) -> Tensor:
    """Return the place of each token, highest score first; ties go to the earlier."""
    order = scores.argsort(dim=1, descending=True, stable=True)
    place = torch.arange(scores.shape[1], device=scores.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, place)


def _first(scores: Tensor, count: int) -> Tensor:
    """Return which tokens have the ``count`` highest scores; ties go to the earlier."""
    chosen = torch.zeros_like(scores, dtype=torch.bool)
    return chosen.scatter_(1, Selection.top(scores, count).index, True) if count else chosen


def _adjacent(chosen: Tensor, coordinates: Tensor) -> Tensor:
    """Return which tokens are left, right, above or below a chosen one ``(B, N)`` in its frame."""
    shape = coordinates.amax(dim=0).add(3).tolist()  # with a margin around each frame
    frame, row, column = (coordinates + 1).unbind(1)
    place = (frame * shape[1] + row) * shape[2] + column
    there = chosen.new_zeros(len(chosen), shape[0] * shape[1] * shape[2])
    there[:, place] = chosen
    sides = (place - 1, place + 1, place - shape[2], place + shape[2])
    return torch.stack([there[:, side] for side in sides]).any(dim=0)
