"""TRIM: keep what is relevant to the text, and the mean of the rest."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...values.selection import Flow, Selection
from ...values.source import Source
from ...values.tokens import VisualTokens
from ..base import Evidence, Method
from ..operations.outliers import outlier_count
from ..operations.signals import TEXT, Notes, TextSign, text_factor, text_relevance


@dataclass(frozen=True)
class Trim(Method, name="trim"):
    """Keep the K - 1 tokens most relevant to the text, and one that is the mean of all others.

    Relevance is the softmax over tokens of the *negated* product of CLIP's patch and text
    embeddings: patches that show what a text says are less similar to it than others. The mean
    token stands at the position of the last dropped token. ``keep="auto"`` keeps the tokens whose
    relevance exceeds ``Q3 + 1.5 IQR``, and the mean token.

    Parameters
    ----------
    text_sign : {"published", "positive", "negative"}
        Whether tokens near the text count as relevant or those far from it; as published, those far
        from it in CLIP, and those near it without CLIP.

    Notes
    -----
    Evidence: CLIP's projected tokens and text; without a text tower the cosine with the prompt's
    own embeddings, not negated.
    Differs from the original: the plain product of its code is used, not the cosine of its paper;
    "auto" counts within each item (there over the batch, as ``int(N * (count / N))``, which at some
    sizes, such as N = 729, is one less); K = N is allowed.
    """

    source = Source(
        "TRIM",
        arxiv="2409.10994",
        venue="COLING 2025",
        section="3",
        code="https://github.com/FreedomIntelligence/TRIM",
        function="CLIPVisionTower.token_reduction",
    )
    text_sign: TextSign = "published"

    @property
    def evidence(self) -> Evidence:
        return (TEXT, ("visual_projected", "features"))

    def choose(self, tokens: VisualTokens, keep: int) -> Selection:
        scores, notes = self.relevance(tokens)
        order = scores.argsort(dim=1, descending=True, stable=True)
        kept, last = order[:, : keep - 1], order[:, keep - 1 :].amax(dim=1, keepdim=True)
        stays = torch.zeros_like(order, dtype=torch.bool).scatter_(1, kept, True)
        stands = stays.scatter(1, last, True)
        slot = stands.cumsum(dim=1) - 1
        slot = torch.where(stays, slot, slot.gather(1, last))
        weight = torch.where(stays, 1.0, 1.0 / (tokens.count - keep + 1))
        place = torch.arange(tokens.count, device=order.device).expand_as(order)
        index = stands.nonzero()[:, 1].view(len(order), keep)
        return Selection(index, Flow(place, slot, weight), notes)

    def auto_count(self, tokens: VisualTokens) -> list[int]:
        scores, _ = self.relevance(tokens)
        return [int(count) + 1 for count in outlier_count(scores)]

    def relevance(self, tokens: VisualTokens) -> tuple[Tensor, Notes]:
        """Return the softmax ``(B, N)`` of the scores, and notes on substituted evidence."""
        if tokens.text_embeds is None or tokens.visual_projected is None:
            scores, notes = text_relevance(tokens, self.text_sign)
            return scores.softmax(dim=1), notes
        text = tokens.text_embeds.float().mean(dim=1, keepdim=True)
        product = torch.bmm(text, tokens.visual_projected.float().mT).squeeze(1)
        return (text_factor(self.text_sign, clip=True) * product).softmax(dim=1), ()
