"""The base class of methods for videos: an item is a clip, or several clips in order."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ...values.selection import Selection
from ...values.tokens import VisualTokens
from ..base import Method
from ..operations.apportion import apportion
from ..operations.blocks import blockwise
from ..operations.composing import stacked


class ClipMethod(Method):
    """A method that decides for clips of ``T`` frames of ``H x W`` tokens, one grid each.

    Each tile of a tiled item is a clip. Clips share the budget in proportion to size and are
    decided separately. With fewer slots than tiles, the largest tiles get one each, of equal ones
    the first.

    A subclass defines `clips`, for a stack of clips, or `clip`, for one clip.
    """

    def clips(self, tokens: VisualTokens, keep: int) -> Selection:
        """Choose ``keep`` tokens of each of a stack of clips, ``1 <= keep < T * H * W``."""
        items = [tokens.item(i) for i in range(len(tokens.features))]
        return stacked([self.clip(item, keep) for item in items])

    def clip(self, tokens: VisualTokens, keep: int) -> Selection:
        """Choose ``keep`` tokens of a clip without a batch dimension."""
        raise TypeError(f"{type(self).__name__} must define clips or clip (tokens, keep)")

    def choose(self, tokens: VisualTokens, keep: int) -> Selection:
        if len(tokens.blocks) == 1:
            return self.clips(tokens, keep)
        sizes = torch.tensor([[frames * h * w for frames, h, w in tokens.blocks]])
        counts = apportion(keep, sizes, sizes).tolist() * len(tokens.features)
        return blockwise(tokens, counts, self._any_count, tokens.blocks)

    def _any_count(self, tokens: VisualTokens, keep: int) -> Selection:
        if keep == tokens.count:
            return Selection.everything(keep, batch=len(tokens.features))
        return self.clips(tokens, keep)


def natural_counts(tokens: VisualTokens, natural: Callable[[VisualTokens], list[int]]) -> list[int]:
    """Return how many tokens each item of a stack keeps: the sum of ``natural`` over its clips."""
    counts = [0] * len(tokens.features)
    rows = torch.arange(len(counts), device=tokens.features.device)
    first = 0
    for grid in tokens.blocks:
        clip = tokens.cut(rows, torch.full_like(rows, first), grid)
        counts = [a + b for a, b in zip(counts, natural(clip), strict=True)]
        first += grid[0] * grid[1] * grid[2]
    return counts


def by_frame(tokens: VisualTokens, x: Tensor) -> Tensor:
    """Return a tensor ``(B, T * N, ...)`` of a stack of clips as ``(B, T, N, ...)``, by frame."""
    frames, height, width = tokens.blocks[0]
    return x.reshape(len(x), frames, height * width, *x.shape[2:])
