"""CDPruner: keep a diverse set of tokens that are relevant to the text."""

from __future__ import annotations

from dataclasses import dataclass

from ...values.selection import Selection
from ...values.source import Source
from ...values.tokens import VisualTokens
from ..base import Evidence, Method
from ..operations.greedy import determinantal
from ..operations.scaling import min_max
from ..operations.signals import TEXT, TextSign, text_relevance


@dataclass(frozen=True)
class CDPruner(Method, name="cdpruner"):
    """Keep tokens that are relevant to the text and different from one another.

    Greedy maximisation of a determinantal point process with the kernel ``r_i cos(x_i, x_j) r_j``,
    where ``x`` are the features that the language model would receive and ``r`` is the relevance to
    the text, scaled to [0, 1] within each item.

    Parameters
    ----------
    text_sign : {"published", "positive", "negative"}
        Whether tokens near the text count as relevant or those far from it; as published, those far
        from it in CLIP, and those near it without CLIP.

    Notes
    -----
    Evidence: CLIP's projected tokens and text; without a text tower the prompt's own embeddings,
    not negated, as in the authors' own code for models without CLIP.
    Differs from the original: relevance is scaled within each item (there over the batch, so that
    an image's tokens depend on the other images). If K is larger than the rank of the kernel, the
    rest is chosen by relevance (there a division by zero).
    """

    source = Source(
        "CDPruner",
        arxiv="2506.10967",
        venue="NeurIPS 2025",
        section="3",
        code="https://github.com/Theia-4869/CDPruner",
        function="LlavaMetaForCausalLM.encode_images",
    )
    text_sign: TextSign = "published"

    @property
    def evidence(self) -> Evidence:
        return (TEXT, ("visual_projected", "features"))

    def choose(self, tokens: VisualTokens, keep: int) -> Selection:
        relevance, notes = text_relevance(tokens, self.text_sign)
        quality = min_max(relevance, floor=1e-6)
        return Selection(determinantal(tokens.features, quality, keep), notes=notes)
