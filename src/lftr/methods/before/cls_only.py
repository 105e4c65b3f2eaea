"""One visual token, or a few: means weighted by the attention of the CLS token."""

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
    """Average the tokens, weighted by the attention that the CLS token pays to them.

    With one slot the average is over the whole image. With K slots the grid is divided into K
    nearly square cells, and each is averaged. The anchor of a slot is the token of its cell with
    the most attention.

    Notes
    -----
    The original gives the language model the CLS state alone.
    Evidence: CLS attention; for encoders without a CLS token, the attention received from all
    tokens.
    Differs from the original: the CLS state is not used, since no connector was trained on it. The
    tokens that it attends to are averaged instead.
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
