"""Give more of the budget to the images, tiles and frames with more varied content."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor

from ...options.checks import Range
from ...values.budget import share
from ...values.selection import Selection
from ...values.tokens import VisualTokens
from ..base import Method
from ..operations.blocks import blockwise, frames_of
from ..operations.scaling import unit
from .base import Wrapper, decide


@dataclass(frozen=True)
class Adaptive(Wrapper):
    """Divide the budget among the items of a prompt, and among the tiles or frames of each.

    An item's share is proportional to its size times a measure of its variety, to the power
    ``strength``. The total of a prompt is kept exactly: plain images give tokens to varied ones.
    Within an item, ``inner`` decides for each tile or frame separately if there is a token for each
    of them; otherwise for the whole item.

    Parameters
    ----------
    inner : Method or str
        The method that chooses, as an object or a name.
    measure : {"spread", "rank"}
        How variety is measured. ``"spread"``: one minus the norm of the mean of the normalised
        tokens, their mean cosine distance from their mean. ``"rank"``: the effective rank of the
        tokens per token (participation ratio of the spectrum of their cosines).
    strength : float
        Exponent of the measure, at least 0; at 0 shares are proportional to sizes.
    within : bool
        Whether to divide the budget among tiles and frames too.
    """

    inner: Method | str
    measure: Literal["spread", "rank"] = "spread"
    strength: Annotated[float, Range(0.0)] = 1.0
    within: bool = True

    def allot(self, items: Sequence[VisualTokens], counts: Sequence[int]) -> list[int]:
        claims = [self._claim(item.features.unsqueeze(0)).item() for item in items]
        return share(sum(counts), claims, [item.count for item in items])

    def choose(self, tokens: VisualTokens, keep: int) -> Selection:
        method = self.methods[0]
        sizes = [rows * columns for _, rows, columns in frames_of(tokens)]
        if not self.within or len(sizes) == 1 or keep < len(sizes):
            return decide(method, tokens, keep)
        frames = tokens.features.split(sizes, dim=1)
        claims = torch.stack([self._claim(frame) for frame in frames], dim=1)
        counts = [share(keep, row, sizes) for row in claims.tolist()]
        return blockwise(tokens, counts, lambda block, count: decide(method, block, count))

    def auto_count(self, tokens: VisualTokens) -> list[int]:
        return self.methods[0].auto_count(tokens)

    def _claim(self, x: Tensor) -> Tensor:
        """Return the weight ``(B,)`` of each row of a stack of tokens ``(B, N, C)``."""
        x = unit(x)
        measure: Tensor
        if self.measure == "spread":
            measure = 1.0 - x.mean(dim=1).norm(dim=1)
        else:
            gram = x @ x.mT if x.shape[1] < x.shape[2] else x.mT @ x
            rank = x.square().sum(dim=(1, 2)) ** 2 / gram.square().sum(dim=(1, 2)).clamp_min(1e-30)
            measure = rank / x.shape[1]
        return measure.clamp_min(0.0).pow(self.strength) * x.shape[1]
