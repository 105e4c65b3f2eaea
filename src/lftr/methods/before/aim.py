"""AIM's first stage: merge similar tokens within each frame, before the language model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Literal

from ...options.checks import Range
from ...values.budget import share
from ...values.selection import Selection
from ...values.source import Source
from ...values.tokens import VisualTokens
from ..base import Evidence, Method
from ..operations.blocks import blockwise, frames_of
from ..operations.matching import halvings, soft_matching
from ..operations.signals import KEYS, keys


@dataclass(frozen=True)
class AIM(Method, name="aim"):
    """Merge the most similar pairs of tokens within each frame, in several passes.

    In each pass (a fold), tokens at even places are compared with those at odd places, and the most
    similar ones are averaged with their partner. The mean is a plain one, whatever its members were
    made of. A fold removes half of the tokens, the last one only what is left to remove: the two
    published folds leave 1/4 of a frame's tokens. With fewer slots than frames, tokens of all
    frames merge together.

    Parameters
    ----------
    metric : {"features", "keys"}
        What similarity is computed from: features, as published for videos, or keys, for images.
    folds : tuple of int
        Number of tokens that the first folds remove from a frame; at most half of its tokens each.
    per_frame : bool
        Whether tokens merge within their own frame or tile only, as published for videos.
    scrambled : bool
        Whether the order between folds is that of the original program: unmerged tokens by
        similarity, then merged ones. This matters where a fold removes less than half.

    Notes
    -----
    Published schedules: (N/2, N/4) for a frame of a video; (288, 144, 72) and (288, 36) of 576 for
    an image.
    Evidence: keys (features where there are none) for ``metric="keys"``; otherwise none.
    Differs from the original: tokens are put back in raster order after every fold, see
    ``scrambled``; any count can be kept. The stage inside the language model is `AIMInside`.
    """

    source = Source(
        "AIM",
        arxiv="2412.03248",
        venue="ICCV 2025",
        code="https://github.com/LaVi-Lab/AIM",
        function="bipartite_soft_matching_merge",
        note="its token merging before the language model",
    )
    metric: Literal["features", "keys"] = "features"
    folds: tuple[Annotated[int, Range(1)], ...] = ()
    per_frame: bool = True
    scrambled: bool = False

    @property
    def evidence(self) -> Evidence:
        return (KEYS,) if self.metric == "keys" else ()

    def choose(self, tokens: VisualTokens, keep: int) -> Selection:
        frames = [rows * columns for _, rows, columns in frames_of(tokens)]
        if not self.per_frame or len(frames) == 1 or keep < len(frames):
            return self._merge(tokens, keep)
        counts = share(keep, frames, frames)
        return blockwise(tokens, [counts] * len(tokens.features), self._merge)

    def _merge(self, tokens: VisualTokens, keep: int) -> Selection:
        metric, notes = keys(tokens) if self.metric == "keys" else (tokens.features, ())
        folds = halvings(tokens.count, keep, first=self.folds)
        merged = soft_matching(metric, folds, by_size=False, scrambled=self.scrambled)
        return replace(merged, notes=notes)
