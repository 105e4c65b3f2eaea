"""Selections among rows of tokens in a module: evidence, the method's choice, the result."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor

from ..methods.base import Method
from ..values.evidence import fields_from, missing_evidence
from ..values.tokens import VisualTokens
from .items import ReductionPlan, VisualItem, choose, drops

# the fields of any tokens in a module
FEATURES = fields_from("features", "projector")


def evidence_of(method: Method, available: frozenset[str], provider: str) -> frozenset[str]:
    """Return the fields of ``available`` that a method uses.

    Raises
    ------
    MissingEvidenceError
        If it needs more.
    """
    for names in method.evidence:
        if not available & set(names):
            raise missing_evidence(names, provider)
    return available & {name for names in method.evidence for name in names}


def choose_rows(
    plan: ReductionPlan,
    items: Sequence[VisualItem],
    features: Sequence[Tensor] | Tensor,
    encoder_features: Sequence[Tensor] | Tensor,
    texts: dict[str, Any],
) -> None:
    """Let the method choose among the tokens ``(N, C)`` of each item."""
    tokens = []
    if drops(plan.keep, items):
        tokens = [
            VisualTokens(
                features[i].detach(),
                **item.layout.fields,
                encoder_features=encoder_features[i].detach(),
                **{name: rows[item.row] for name, rows in texts.items()},
            )
            for i, item in enumerate(items)
        ]
    choose(plan, items, tokens)


def apply_rows(items: Sequence[VisualItem], rows: Iterable[Tensor]) -> list[Tensor]:
    """Return the chosen tokens of every row ``(N, C)``, each ``(K, C)``."""
    pairs = zip(items, rows, strict=True)
    return [item.selection.apply(row) for item, row in pairs if item.selection is not None]
