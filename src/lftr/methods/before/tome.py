"""ToMe: bipartite soft matching on the encoder's output."""

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
    """Merge the likest pairs of an even and an odd token, size-weighted, fold by fold.

    Tokens are compared by their keys (mean over heads), or by their features where there are none.
    A fold removes half at most; folds go on until ``keep`` slots are left.

    Parameters
    ----------
    class_token : bool
        Whether the first token is a class token, which flows into no other.

    Notes
    -----
    Evidence: keys, or features.
    Differs: acts on the encoder's output, as in comparisons of multimodal models (the original
    merges a few tokens in every layer); the order of the tokens is restored after every fold (the
    original leaves unmerged ones before destinations).
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
