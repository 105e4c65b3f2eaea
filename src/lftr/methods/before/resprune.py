"""ResPrune: keep tokens with the largest residual to the span of those kept, by relevance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from ...options.checks import Range
from ...values.selection import Selection
from ...values.source import Source
from ...values.tokens import VisualTokens
from ..base import Evidence, Method
from ..operations.greedy import determinantal
from ..operations.signals import TEXT, TextSign, text_relevance


@dataclass(frozen=True)
class ResPrune(Method, name="resprune"):
    """Keep, one after the other, the token least explained by those kept, weighted by relevance.

    A token's residual is what is left of its features after projection onto the span of the kept
    tokens. The next token is the one with the largest squared length of the residual, times its
    relevance to the text to the power ``alpha``.

    Parameters
    ----------
    alpha : float
        Exponent of the relevance, at least 0; at 0 the text plays no part.
    text_sign : {"published", "positive", "negative"}
        Whether tokens near the text count as relevant or those far from it; as published, those far
        from it in CLIP, and those near it without CLIP.

    Notes
    -----
    Evidence: CLIP's projected tokens and text; without a text tower the prompt's own embeddings.
    No code was published. Chosen here: relevance is the cosine with the text, in CLIP negated (as
    in TRIM), mapped from [-1, 1] to [0, 1]; all words of the text count (there its nouns); alpha is
    1; tokens in the span of the kept ones come last, by their weight.
    """

    source = Source(
        "ResPrune",
        arxiv="2603.21105",
        note="from descriptions of it; no code was published",
    )
    alpha: Annotated[float, Range(0.0)] = 1.0
    text_sign: TextSign = "published"

    @property
    def evidence(self) -> Evidence:
        return (TEXT, ("visual_projected", "features")) if self.alpha else ()

    def choose(self, tokens: VisualTokens, keep: int) -> Selection:
        x = tokens.features.float()
        largest = x.abs().amax(dim=(1, 2), keepdim=True)
        length = (x / largest.clamp_min(1e-38)).norm(dim=2)  # so that no square overflows
        if self.alpha == 0:
            return Selection(determinantal(x, length, keep))
        relevance, notes = text_relevance(tokens, self.text_sign)
        weight = ((1.0 + relevance) / 2).clamp(0.0, 1.0) ** (self.alpha / 2)
        return Selection(determinantal(x, length * weight, keep), notes=notes)
