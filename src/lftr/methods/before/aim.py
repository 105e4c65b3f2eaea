"""AIM, its merging half: embeddings merged frame by frame before the language model."""

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
    """Merge the likest pairs of an even and an odd token, fold by fold, within each frame.

    Each fold takes the plain mean of a destination and its sources, whatever they were made of.
    Half of the tokens go in each fold, and what is left to go in the last: 1/4 of a frame's tokens
    is reached by the published two folds. With fewer slots than frames, all tokens merge together.

    Parameters
    ----------
    metric : str
        What is compared: ``"features"`` as published for videos, ``"keys"`` for images.
    folds : tuple of int
        Tokens that the first folds remove, for a frame; none removes more than half.
    per_frame : bool
        Whether tokens merge within their frame or tile only, as published for videos.
    scrambled : bool
        Whether to leave unmerged tokens, by similarity, before destinations between folds, as the
        program does. Matters where a fold removes less than half.

    Notes
    -----
    Published schedules: (N/2, N/4) for a frame of a video; (288, 144, 72) and (288, 36) of 576 for
    an image.
    Evidence: keys, or features, for ``metric="keys"``; else none.
    Differs: the order of the tokens is restored after every fold, see ``scrambled``; any count. The
    pruning half acts inside the language model and is not part of this method.
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
