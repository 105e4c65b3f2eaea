"""AIM for videos: embeddings merged within each frame."""

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
    """Merge the likest pairs of an even and an odd token of each frame, fold by fold.

    Frames keep equally many, never merge with one another, and lose half of their tokens in each
    fold until they have what they keep: a quarter after the two folds of the publication. With
    fewer slots than frames, evenly spread frames become one slot each, the others go.

    Parameters
    ----------
    folds : tuple of int
        Tokens that the first folds remove of a frame; none removes more than half.

    Notes
    -----
    Published: N/2 and then N/4 tokens of a frame are removed.
    Differs: any count; the order is restored after every fold. `aim` is the same rule with the
    options for images; `aim-inside`, the half inside the language model, composes with this one.
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
