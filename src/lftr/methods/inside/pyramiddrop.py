"""PyramidDrop: fewer visual tokens at every quarter of the depth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...values.selection import Selection
from ...values.source import Source
from .base import LayerMethod, LayerView, Reads
from .schedules import Schedule, Stages


@dataclass(frozen=True)
class PyramidDrop(LayerMethod, name="pyramiddrop"):
    """Halve the visual tokens at every quarter of the depth, by the attention of the last token.

    Parameters
    ----------
    schedule : Schedule
        By default 1/2, 1/4 and 1/8 of the tokens from one quarter, one half and three quarters of
        the layers on.

    Notes
    -----
    Published: layers 8, 16 and 24 of 32. A score is the mean over heads of the attention that the
    last instruction token will have in the next layer.
    Differs from the original: positions are kept (there they are renumbered); the count is rounded
    up; grouped keys, several images and padding on either side are allowed.
    """

    source = Source(
        "PyramidDrop",
        arxiv="2410.17247",
        venue="CVPR 2025",
        section="3.2",
        code="https://github.com/Cooperx521/PyramidDrop",
        function="LlamaModel.pdrop_rank_drop",
    )
    schedule: Schedule = Stages(layers=(0.25, 0.5, 0.75), keep=(0.5, 0.25, 0.125))
    reads: ClassVar[Reads] = "own"
    merges: ClassVar[bool] = False

    def select(self, view: LayerView, keep: int) -> Selection:
        return Selection.top(view.received(view.last), keep)
