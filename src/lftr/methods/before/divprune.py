"""DivPrune: keep tokens that are far apart."""

from __future__ import annotations

from dataclasses import dataclass

from ...values.selection import Selection
from ...values.source import Source
from ...values.tokens import VisualTokens
from ..base import Method
from ..operations.greedy import farthest_point


@dataclass(frozen=True)
class DivPrune(Method, name="divprune"):
    """Keep tokens whose smallest distance from one another is large (max-min diversity).

    Greedy: the first token is the one whose nearest other token is farthest away, by cosine. Each
    further token is the one farthest from all tokens kept so far. The prompt is not used.

    Notes
    -----
    Evidence: none beyond the features that the language model would receive.
    Differs from the original: a token is never picked twice (there duplicates lead to fewer than K
    tokens). O(N K) comparisons instead of O(N K^2) reads.
    """

    source = Source(
        "DivPrune",
        arxiv="2503.02175",
        venue="CVPR 2025",
        algorithm="1",
        code="https://github.com/vbdi/divprune",
        function="LlavaMetaForCausalLM.DivPrune",
    )

    def choose(self, tokens: VisualTokens, keep: int) -> Selection:
        return Selection(farthest_point(tokens.features, keep))
