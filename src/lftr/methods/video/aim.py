"""AIM's first stage for videos: merge similar tokens within each frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch

from ...options.checks import Range
from ...values.selection import Selection
from ...values.source import Source
from ...values.tokens import VisualTokens
from ..operations.apportion import apportion
from ..operations.blocks import blockwise
from ..operations.cells import centres
from ..operations.matching import halvings, soft_matching
from .base import ClipMethod


@dataclass(frozen=True)
class AIMVideo(ClipMethod, name="aim-video"):
    """Halve every frame by merging its most similar tokens, until the budget is met.

    All frames keep the same number of tokens, and no tokens of different frames merge. In each pass
    (a fold) a frame loses half of its tokens: a quarter is left after the two published folds. With
    fewer slots than frames, evenly spread frames become one slot each, and the other frames are
    dropped.

    Parameters
    ----------
    folds : tuple of int
        Number of tokens that the first folds remove from a frame; at most half of its tokens each.

    Notes
    -----
    Published: N/2 and then N/4 tokens of a frame are removed.
    Differs from the original: any count can be kept, and tokens are put back in raster order after
    every fold. `aim` is the same rule with the options for images. `aim-inside`, the stage inside
    the language model, can be combined with this one.
    """

    source = Source(
        "AIM",
        arxiv="2412.03248",
        venue="ICCV 2025",
        code="https://github.com/LaVi-Lab/AIM",
        function="bipartite_soft_matching_merge",
        note="its token merging of video frames",
    )
    folds: tuple[Annotated[int, Range(1)], ...] = ()

    def clips(self, tokens: VisualTokens, keep: int) -> Selection:
        frames, height, width = tokens.blocks[0]
        if keep < frames:
            counts = [0] * frames
            for frame in centres(frames, keep).tolist():
                counts[frame] = 1
        else:
            even = torch.ones(1, frames)
            counts = apportion(keep, even, torch.tensor([height * width]))[0].tolist()
        return blockwise(tokens, [counts] * len(tokens.features), self._merge)

    def _merge(self, tokens: VisualTokens, keep: int) -> Selection:
        folds = halvings(tokens.count, keep, first=self.folds)
        return soft_matching(tokens.features, folds, by_size=False)
