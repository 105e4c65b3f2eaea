"""Keep what differs from a few pivots."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from ...options.checks import Range
from ...values.indexing import take
from ...values.selection import Selection
from ...values.source import Source
from ...values.tokens import VisualTokens
from ..base import Evidence, Method
from ..operations.pivots import largest, least_alike
from ..operations.signals import Notes


@dataclass(frozen=True)
class Dart(Method, name="dart"):
    """Keep pivots and, for each of them, the tokens that resemble it least (duplication-aware).

    Pivots are the tokens of largest L1 norm, of the image and of the text; the latter choose, but
    are not part of the count. Each takes its quota of the tokens that no earlier one took.

    Parameters
    ----------
    pivots : int
        Pivots of the image, at least 1; they are kept.
    text_pivots : int
        Pivots of the text, at least 0.
    norm : {"features", "keys"}
        What the L1 norm of an image token is taken of.

    Notes
    -----
    Evidence: the prompt's own token embeddings; without text the image's pivots choose alone.
    Differs: K is exact (the original keeps ``pivots + all pivots * quota`` tokens; what is left
    over goes to the first pivots, one each); pivots choose in the order of their norm, the image's
    first (the original: in that of a Python set).
    """

    source = Source(
        "DART",
        arxiv="2502.11494",
        venue="EMNLP 2025",
        section="4",
        code="https://github.com/ModelTC/LightCompress",
        function="get_retained_image_token",
        note="by a port; here on the embeddings that enter the language model",
    )
    pivots: Annotated[int, Range(1)] = 4
    text_pivots: Annotated[int, Range(0)] = 4
    norm: Literal["features", "keys"] = "features"

    @property
    def evidence(self) -> Evidence:
        keys: Evidence = (("keys",),) if self.norm == "keys" else ()
        return ((("text_token_embeds",),) if self.text_pivots else ()) + keys

    def choose(self, tokens: VisualTokens, keep: int) -> Selection:
        _, measured = tokens.evidence(self.norm)
        own = largest(measured, min(self.pivots, keep))
        notes: Notes = ()
        text, others = tokens.text_token_embeds, None
        if self.text_pivots and text is not None:
            others = take(text, largest(text, self.text_pivots), 1)
        elif self.text_pivots:
            notes = ("without text, the image's pivots chose alone",)
        return Selection(least_alike(tokens.features, own, others, keep), notes=notes)
