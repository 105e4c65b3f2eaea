"""FOLDER: repeated bipartite merging that folds the tokens in half until the count is met."""

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
    """Merge the likest pairs of an even and an odd token, size-weighted, fold by fold.

    A fold removes ``(n - 1) // 2`` tokens at most; folds go on until ``keep`` slots are left. The
    simplified version compares features and needs nothing else. The full one compares keys and
    holds back what the encoder attends to: a source's similarity loses ``100 * alpha`` times its
    attention.

    Parameters
    ----------
    full : bool
        Whether to take the full version's keys and attention.
    alpha : float
        Strength of the attention in the full version, at least 0.
    scaling : bool
        Whether to amplify merged tokens by ``1 + ln(size)``, as the simplified program does, after
        several folds always and after a single one only if it removes less than a third.
    class_token : bool
        Whether the first token is a class token, which flows into no other.

    Notes
    -----
    Evidence: none; in the full version keys, or features, and CLS attention, or attention received.
    Differs: ``scaling`` is off, since the paper does not mention it; one token is reachable, by a
    last fold of two (the original stops at two); the full version acts on the encoder's output (the
    original between attention and MLP of its last layer but one), keeps the order of the tokens,
    and works below 40 of them, where the original raises.
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
            chosen = _amplified(chosen)
        return replace(chosen, notes=notes)


def _amplified(chosen: Selection) -> Selection:
    """Scale each slot by ``1 + ln(size)``."""
    assert chosen.flow is not None
    source, slot, weight = chosen.flow.source, chosen.flow.slot, chosen.flow.weight
    size = torch.zeros_like(weight[:, : chosen.count]).scatter_add_(
        1, slot, torch.ones_like(weight)
    )
    return replace(chosen, flow=Flow(source, slot, weight * (1.0 + size.log()).gather(1, slot)))
