"""Keep what the prompt's last token looks at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...values.selection import Selection
from ...values.source import Source
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
    Scores are the mean over heads of the last row of the attention of layer K - 1.
    Differs: rows are removed and their keys never cached; the row is computed from queries and
    keys, so any attention kernel will do; the ratio is rounded up, not to the nearest.
    """

    source = Source(
        "FastV",
        arxiv="2403.06764",
        venue="ECCV 2024",
        section="4",
        code="https://github.com/pkunlp-icler/FastV",
        function="LlamaModel.forward",
        note="its in-place block",
    )
    reads: ClassVar[Reads] = "previous"

    def select(self, view: LayerView, keep: int) -> Selection:
        return Selection.top(view.received(view.last), keep)
