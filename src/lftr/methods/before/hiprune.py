"""HiPrune: tokens that a middle and a late encoder layer attend to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from ...options.checks import Range
from ...values.places import grid_coordinates
from ...values.selection import Selection
from ...values.source import Source
from ...values.tokens import Grid, VisualTokens
from ..base import Evidence, Method
from ..operations.remembered import remembered
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
    def sees_features(self) -> bool:
        return self.text_share > 0

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
        level = torch.zeros_like(deep, dtype=torch.int64)
        if anchors := round(keep * self.alpha / 5):
            chosen = Selection.top(shallow.float(), anchors).index
            around = _beside(tokens).to(deep.device)[chosen].flatten(1)
            level.scatter_(1, around, 1).scatter_(1, chosen, 2)
        ranked = _ranked(deep, level)
        if self.text_share == 0:
            return Selection.top(ranked, keep, notes)
        relevance, more = text_relevance(tokens, self.text_sign)
        level.zero_()
        if seen := keep - round(keep * self.text_share):
            level.scatter_(1, Selection.top(ranked, seen).index, 1)
        return Selection.top(_ranked(relevance, level), keep, notes + more)


def _ranked(scores: Tensor, level: Tensor) -> Tensor:
    """Return ranks ``(B, N)``, higher for a higher level, then a higher score, then earlier."""
    order = scores.argsort(dim=1, descending=True, stable=True)
    order = order.gather(1, level.gather(1, order).argsort(dim=1, descending=True, stable=True))
    ranks = torch.arange(scores.shape[1], 0, -1, device=scores.device)
    return torch.empty_like(order).scatter_(1, order, ranks.expand_as(order))


def _beside(tokens: VisualTokens) -> Tensor:
    """Return the tokens ``(N, 4)`` beside, above and below each token in its frame.

    Where there is none, at the border, the token itself.
    """
    known = tokens.grid is not None or tokens.tiles is not None
    return _beside_in(tokens.blocks) if known else _beside_at(tokens.coordinates)


@remembered
def _beside_in(blocks: tuple[Grid, ...]) -> Tensor:
    return _beside_at(grid_coordinates(blocks))


def _beside_at(coordinates: Tensor) -> Tensor:
    frame, row = 1 << 40, 1 << 20  # larger than any frame has rows or columns
    key = (coordinates * coordinates.new_tensor([frame, row, 1])).sum(dim=1)
    wanted = key.unsqueeze(1) + key.new_tensor([-1, 1, -row, row])
    key, order = key.sort()
    place = torch.searchsorted(key, wanted).clamp_max_(len(key) - 1)
    itself = torch.arange(len(key), device=key.device).unsqueeze(1)
    return torch.where(key[place] == wanted, order[place], itself)
