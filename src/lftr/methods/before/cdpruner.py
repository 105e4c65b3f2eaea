"""Keep a diverse set of tokens that matter to the question."""

from __future__ import annotations

from dataclasses import dataclass

from ...values.selection import Selection
from ...values.source import Source
from ...values.tokens import VisualTokens
from ..base import Evidence, Method
from ..operations.greedy import determinantal
from ..operations.scaling import min_max
from ..operations.signals import TEXT, text_relevance


@dataclass(frozen=True)
class CDPruner(Method, name="cdpruner"):
    """Keep the set of largest determinant under a kernel of similarity times relevance.

    Greedy maximisation of a determinantal point process with kernel ``r_i cos(x_i, x_j) r_j``:
    ``x`` the features that the language model would receive, ``r`` the relevance to the text, from
    0 to 1 within an item.

    Evidence: CLIP's projected tokens and text; without a text tower the prompt's own embeddings,
    not negated, as in the authors' own code for models without CLIP.
    Differs: relevance is scaled within each item (the original scales over the batch, so that an
    image's tokens depend on its neighbours); a K above the kernel's rank stays defined: what is
    left goes by relevance (the original divides by zero).
    """

    source = Source(
        "CDPruner",
        arxiv="2506.10967",
        venue="NeurIPS 2025",
        section="3",
        code="https://github.com/Theia-4869/CDPruner",
        function="LlavaMetaForCausalLM.encode_images",
    )

    @property
    def evidence(self) -> Evidence:
        return (TEXT, ("visual_projected", "features"))

    def choose(self, tokens: VisualTokens, keep: int) -> Selection:
        relevance, notes = text_relevance(tokens)
        quality = min_max(relevance, floor=1e-6)
        return Selection(determinantal(tokens.features, quality, keep), notes=notes)
