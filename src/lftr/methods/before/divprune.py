"""Keep tokens that are far apart."""

from __future__ import annotations

from dataclasses import dataclass

from ...values.selection import Selection
from ...values.source import Source
from ...values.tokens import VisualTokens
from ..base import Method
from ..operations.greedy import farthest_point


@dataclass(frozen=True)
class DivPrune(Method, name="divprune"):
    """Keep the tokens whose smallest distance to one another is large (max-min diversity).

    Greedy: first the token whose nearest other token is the farthest, by cosine; then, each time,
    the token that is farthest from all kept ones. The prompt plays no part.

    Evidence: none, the features that the language model would receive.
    Differs: a kept token is never picked again (the original picks one twice where there are
    duplicates, and falls short of K); O(N K) comparisons instead of O(N K^2) reads.
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
