"""DART before the language model: keep tokens that differ from a few pivots."""

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
    """Keep a few pivots and, for each pivot, the tokens that are least similar to it.

    Pivots are the tokens of largest L1 norm, some of the image and some of the text. Pivots of the
    text help to choose, but do not count as kept tokens. In turn, each pivot takes its share of the
    tokens that are still free.

    Parameters
    ----------
    pivots : int
        Number of image pivots, at least 1; they are kept.
    text_pivots : int
        Number of text pivots, at least 0.
    norm : {"features", "keys"}
        Of what the L1 norm of an image token is computed.

    Notes
    -----
    Evidence: the prompt's own token embeddings; without text, only the image's pivots choose.
    Differs from the original: K is exact (there ``pivots + all pivots * quota`` tokens are kept;
    here the remainder goes to the first pivots, one token each). Pivots choose in descending order
    of their norm, those of the image first (there in the order of a Python set).
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
        pivots = largest(measured, min(self.pivots, keep))
        notes: Notes = ()
        text, others = tokens.text_token_embeds, None
        if self.text_pivots and text is not None:
            others = take(text, largest(text, self.text_pivots), 1)
        elif self.text_pivots:
            notes = ("without text, the image's pivots chose alone",)
        return Selection(least_alike(tokens.features, pivots, others, keep), notes=notes)
