"""What methods for videos share: an item is a clip, or several one after the other."""

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
    """A method that sees clips: stacks of ``T`` frames of ``H x W`` tokens, one grid each.

    A tiled item is as many clips as it has tiles; they share the budget by size and are decided one
    by one. With fewer slots than tiles the largest tiles get one each, of equal ones the first.

    A subclass writes `clips`, for a stack, or `clip`, for one that goes its own way by content.
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


def own_counts(tokens: VisualTokens, natural: Callable[[VisualTokens], list[int]]) -> list[int]:
    """Return how many tokens each item of a stack keeps by a measure of clips: the sum of them."""
    counts = [0] * len(tokens.features)
    rows = torch.arange(len(counts), device=tokens.features.device)
    first = 0
    for grid in tokens.blocks:
        clip = tokens.cut(rows, torch.full_like(rows, first), grid)
        counts = [a + b for a, b in zip(counts, natural(clip), strict=True)]
        first += grid[0] * grid[1] * grid[2]
    return counts


def by_frame(tokens: VisualTokens, x: Tensor) -> Tensor:
    """Return what is aligned with the tokens of a stack of clips ``(B, T * N, ...)`` by frame.

    Shape ``(B, T, N, ...)``.
    """
    frames, height, width = tokens.blocks[0]
    return x.reshape(len(x), frames, height * width, *x.shape[2:])
