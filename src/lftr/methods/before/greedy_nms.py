"""GreedyPrune before the language model: rank by similarity to the prompt, skip near-duplicates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from ...options.checks import Range
from ...values.selection import Selection
from ...values.source import Source
from ...values.tokens import VisualTokens
from ..base import Evidence, Method
from ..operations.greedy import suppress
from ..operations.scaling import mean_cosine


@dataclass(frozen=True)
class GreedyNMS(Method, name="greedy-nms"):
    """Keep tokens by similarity to the prompt's last token; skip those that resemble a kept token.

    The rule of GreedyPrune, applied to the features and embeddings that enter the language model.

    Parameters
    ----------
    threshold : float
        Cosine with a kept token, in [-1, 1], above which a token is skipped.

    Notes
    -----
    The default of 0.9 is the value of a third party's port.
    Evidence: the prompt's own token embeddings.
    Differs from the original: acts before the language model instead of on the states of an early
    layer. If fewer than K tokens pass, skipped ones follow by similarity to the prompt, so that K
    is exact.
    """

    source = Source("GreedyPrune", arxiv="2506.13166", algorithm="1", note="its code is not public")
    threshold: Annotated[float, Range(-1.0, 1.0)] = 0.9

    @property
    def evidence(self) -> Evidence:
        return (("text_token_embeds",),)

    def choose(self, tokens: VisualTokens, keep: int) -> Selection:
        _, text = tokens.evidence("text_token_embeds")
        scores = mean_cosine(tokens.features, text[:, -1:])
        return Selection(suppress(tokens.features, scores, keep, float(self.threshold)))
