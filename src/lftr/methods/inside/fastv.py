"""Keep what the prompt's last token looks at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...values.selection import Selection
from .base import LayerView, Reads
from .one_cut import OneCut


@dataclass(frozen=True)
class FastV(OneCut, name="fastv"):
    """Keep the visual tokens that the prompt's last token attends to most, once, early.

    Parameters
    ----------
    schedule : Schedule
        By default half of the tokens from layer 2 on, counted from 0.
    layer, keep
        Short for ``schedule=Step(layer, keep)``.

    Notes
    -----
    Source: FastV (arXiv 2403.06764), section 4, and the authors' in-place block of
    ``LlamaModel.forward``: mean over heads of the last row of the attention of layer K - 1.
    Differs: rows are removed and their keys never cached; the row is computed from queries and
    keys, so any attention kernel will do; the ratio is rounded up, not to the nearest.
    """

    reads: ClassVar[Reads] = "previous"

    def select(self, view: LayerView, keep: int) -> Selection:
        return Selection.top(view.received(view.last), keep)
