"""Keep what resembles the question, never two tokens that say the same."""

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
    """Keep by similarity to the prompt's last token, skipping what resembles a kept token.

    GreedyPrune's rule, on the features and embeddings that enter the language model.

    Parameters
    ----------
    threshold : float
        Cosine above which a token counts as said already, from -1 to 1.

    Notes
    -----
    The threshold of 0.9 is the value of a third party's port.
    Evidence: the prompt's own token embeddings.
    Differs: acts before the language model instead of on the states of an early layer; where fewer
    than K tokens pass, the skipped ones follow by their similarity to the prompt, so that K is
    exact.
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
