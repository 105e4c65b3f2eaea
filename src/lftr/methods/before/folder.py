"""FOLDER's merging rule on the output of the encoder."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

import torch

from ...options.checks import Range
from ...values.selection import Flow, Selection
from ...values.source import Source
from ...values.tokens import VisualTokens
from ..base import Evidence, Method
from ..operations.matching import halvings, soft_matching
from ..operations.signals import KEYS, SALIENCY, Notes, keys, saliency


@dataclass(frozen=True)
class Folder(Method, name="folder"):
    """Merge the most similar pairs of tokens, in several passes, with means weighted by size.

    A pass (a fold) removes ``(n - 1) // 2`` tokens at most; folds go on until ``keep`` slots are
    left. The simplified version compares features and needs nothing else. The full version compares
    keys and protects tokens to which the encoder attends: the similarity of a token to others is
    lowered by ``100 * alpha`` times its attention.

    Parameters
    ----------
    full : bool
        Whether to use keys and attention, as the full version does.
    alpha : float
        Strength of the attention in the full version, at least 0.
    scaling : bool
        Whether to multiply merged tokens by ``1 + ln(size)``, as the simplified program does after
        several folds, and after a single one only if it removes less than a third.
    class_token : bool
        Whether the first token is a class token, which is not merged into another.

    Notes
    -----
    Evidence: none; in the full version keys (or features) and CLS attention (or the attention
    received).
    Differs from the original: ``scaling`` is off by default, since the paper does not mention it.
    One token can be reached, by a last fold of two (the original stops at two). The full version
    acts on the output of the encoder (there between attention and MLP of its last layer but one),
    keeps the order of tokens, and works below 40 tokens (there it raises).
    """

    source = Source(
        "FOLDER",
        arxiv="2501.02430",
        venue="ICCV 2025",
        code="https://github.com/anakin-skywalker-Joseph/Folder",
        function="merge_features",
        note="both versions: the function (simplified) and the patched encoder layer (full)",
    )
    full: bool = False
    alpha: Annotated[float, Range(0.0)] = 5.0
    scaling: bool = False
    class_token: bool = False

    @property
    def evidence(self) -> Evidence:
        return (KEYS, SALIENCY) if self.full else ()

    def choose(self, tokens: VisualTokens, keep: int) -> Selection:
        metric, penalty = tokens.features, None
        notes: Notes = ()
        if self.full:
            metric, notes = keys(tokens)
            attention, more = saliency(tokens)
            penalty, notes = 100.0 * self.alpha * attention, notes + more
        folds = tuple(halvings(tokens.count, keep, spare=1))
        chosen = soft_matching(metric, folds, class_token=self.class_token, penalty=penalty)
        if self.scaling and (len(folds) > 1 or folds[0] < keep // 2):
            chosen = _amplify(chosen)
        return replace(chosen, notes=notes)


def _amplify(chosen: Selection) -> Selection:
    """Scale each slot by ``1 + ln(size)``."""
    assert chosen.flow is not None
    source, slot, weight = chosen.flow.source, chosen.flow.slot, chosen.flow.weight
    size = torch.zeros_like(weight[:, : chosen.count]).scatter_add_(
        1, slot, torch.ones_like(weight)
    )
    return replace(chosen, flow=Flow(source, slot, weight * (1.0 + size.log()).gather(1, slot)))
