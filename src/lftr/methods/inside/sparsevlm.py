"""Keep what the words that speak of the image look at; recycle the best of the rest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from ...options.checks import Range
from ...values.selection import Selection
from ...values.source import Source
from ..operations.recycling import recycled
from .base import LayerMethod, LayerView, Reads
from .raters import raters
from .schedules import Schedule, Stages

LAYERS = (2 / 32, 6 / 32, 15 / 32)


@dataclass(frozen=True)
class SparseVLM(LayerMethod, name="sparsevlm"):
    """Keep what the text's raters attend to, and clusters of the best of what is pruned.

    Raters are chosen once, at the embeddings: the words after the image whose products with the
    visual tokens are above the mean. In three stages they keep the tokens that they attend to most,
    in the mean over heads and raters. Of the others some are recycled: merged, by density, into
    about a thirtieth as many slots.

    Parameters
    ----------
    schedule : Schedule
        From 2, 6 and 15 of 32 layers on; counts include the clusters.
    recycle : float
        Share of the dropped tokens that is recycled, from 0 (none) to 1.

    Notes
    -----
    Published for 576 tokens, kept at each stage and clusters beside them: 192 on average is 300 +
    9, 200 + 4, 110 + 3 (the default, as shares); 128 is 303 + 9, 110 + 7, 36 + 3; 64 is 66 + 16, 30
    + 2, 17 + 1.
    Differs: clusters count towards K, so that K is exact, and are at most half of it; density has
    no random noise; a cluster stands at the position of its densest token, in raster order, and
    positions stay as they were (the original puts clusters last and renumbers).
    """

    source = Source(
        "SparseVLM",
        arxiv="2410.04417",
        venue="ICML 2025",
        code="https://github.com/Gumpest/SparseVLMs",
        function="attn_postprocess_topk, cluster_and_merge",
        note="version 1",
    )
    schedule: Schedule = Stages(LAYERS, keep=(309 / 576, 204 / 576, 113 / 576))
    recycle: Annotated[float, Range(0.0, 1.0)] = 0.3
    reads: ClassVar[Reads] = "previous"

    def watches(self, depth: int) -> frozenset[int]:
        return frozenset({0})

    def count(self, view: LayerView, planned: int) -> int:
        raters(view)
        return planned

    def select(self, view: LayerView, keep: int) -> Selection:
        scores = view.received(raters(view))
        return recycled(view.states[view.visual], scores, keep, self.recycle)
