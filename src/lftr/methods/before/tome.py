"""ToMe's merging rule on the output of the encoder."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ...values.selection import Selection
from ...values.source import Source
from ...values.tokens import VisualTokens
from ..base import Evidence, Method
from ..operations.matching import halvings, soft_matching
from ..operations.signals import KEYS, keys


@dataclass(frozen=True)
class ToMe(Method, name="tome"):
    """Merge the most similar pairs of tokens, in several passes, with means weighted by size.

    In each pass (a fold), tokens at even places are compared with those at odd places by their keys
    (averaged over heads), or by their features where there are no keys. The most similar ones
    merge. A fold removes at most half of the tokens; folds go on until ``keep`` slots are left.

    Parameters
    ----------
    class_token : bool
        Whether the first token is a class token, which is not merged into another.

    Notes
    -----
    Evidence: keys, or features.
    Differs from the original: acts on the output of the encoder, as in comparisons of multimodal
    models (there a few tokens merge in every layer). Tokens are put back in raster order after
    every fold (there unmerged tokens come first).
    """

    source = Source(
        "ToMe",
        arxiv="2210.09461",
        venue="ICLR 2023",
        section="3",
        code="https://github.com/facebookresearch/ToMe",
        function="bipartite_soft_matching, merge_wavg",
    )
    class_token: bool = False

    @property
    def evidence(self) -> Evidence:
        return (KEYS,)

    def choose(self, tokens: VisualTokens, keep: int) -> Selection:
        metric, notes = keys(tokens)
        folds = halvings(tokens.count, keep, spare=int(self.class_token))
        return replace(soft_matching(metric, folds, class_token=self.class_token), notes=notes)
