"""Control: average pooling."""

from __future__ import annotations

from dataclasses import dataclass

from ...values.selection import Selection
from ...values.source import Source
from ...values.tokens import VisualTokens
from ..base import Method
from ..operations.cells import cells
from ..operations.flows import mean_flow


@dataclass(frozen=True)
class Pool(Method, name="pool"):
    """Average the tokens of ``K`` nearly square cells that cover the grid, each token in one cell.

    The control that any merging method must beat. Rows are divided evenly into bands and each band
    evenly into cells, so that every ``K`` is possible: 36 slots of a 24 x 24 grid are 6 x 6 cells
    of 4 x 4 tokens, the result of ``avg_pool2d``. Frames and tiles get cells in proportion to their
    size. With fewer cells than frames, a cell is a run of whole frames. The anchor of a slot is the
    token in the middle of its cell. Tokens without a grid are treated as one row.
    """

    source = Source("this project", note="a control")

    def choose(self, tokens: VisualTokens, keep: int) -> Selection:
        cell, anchor = (part.to(tokens.features.device) for part in cells(tokens.blocks, keep))
        batch = len(tokens.features)
        return Selection(anchor.expand(batch, -1), mean_flow(cell.expand(batch, -1), keep))
