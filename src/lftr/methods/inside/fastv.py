"""FastV: one early cut by the attention of the last token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...values.selection import Selection
from ...values.source import Source
from .base import LayerView, Reads
from .one_cut import OneCut


@dataclass(frozen=True)
class FastV(OneCut, name="fastv"):
    """Keep the visual tokens to which the last token attends most, once, in an early layer.

    Parameters
    ----------
    schedule : Schedule
        By default half of the tokens from layer 2 on, counted from 0.
    layer, keep
        Short for ``schedule=Step(layer, keep)``.

    Notes
    -----
    A score is the mean over heads of the last token's attention in layer K - 1.
    Differs from the original: tokens are removed and their keys are never cached. The attention is
    computed from queries and keys, so any attention kernel can be used. The count is rounded up,
    not to the nearest.
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
