"""What the CLS token saw, as one visual token or a few."""

from __future__ import annotations

from dataclasses import dataclass

from ...values.selection import Selection
from ...values.source import Source
from ...values.tokens import VisualTokens
from ..base import Evidence, Method
from ..operations.cells import cells
from ..operations.flows import weighted_flow
from ..operations.signals import SALIENCY, saliency


@dataclass(frozen=True)
class ClsOnly(Method, name="cls-only"):
    """Average the tokens by the attention that the CLS token pays them: one slot for all.

    With more than one slot, the grid is divided into ``K`` near-square cells, each averaged by
    attention. A slot's anchor is the token of its cell that is attended to most.

    Notes
    -----
    The original hands the language model the CLS state alone.
    Evidence: CLS attention, or attention received from encoders without CLS.
    Differs: the CLS state itself is no visual token and no connector was trained on it; what it
    attends to is averaged in its place, in the space that the language model knows.
    """

    source = Source("eP-ALM", arxiv="2303.11403", note="the extreme baseline of one visual token")

    @property
    def evidence(self) -> Evidence:
        return (SALIENCY,)

    def choose(self, tokens: VisualTokens, keep: int) -> Selection:
        attention, notes = saliency(tokens)
        cell = cells(tokens.blocks, keep)[0].to(attention.device)
        order = attention.argsort(dim=1, descending=True, stable=True)
        grouped = order.gather(1, cell[order].argsort(dim=1, stable=True))
        size = cell.bincount(minlength=keep)
        strongest = grouped[:, size.cumsum(0) - size]
        return Selection(strongest, weighted_flow(cell.expand_as(order), attention, keep), notes)
