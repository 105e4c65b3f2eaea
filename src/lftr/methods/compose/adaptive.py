"""A budget spread over images, tiles and frames by how much each has to say."""

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
    """Spread the budget over the items of a prompt, and over the tiles or frames of each.

    An item's claim is its size times how much it has to say, to the power ``strength``. What a
    prompt keeps in total stays, exactly, so that with ``keep=lftr.Budget(total=...)`` or a ratio
    plain images hand tokens on to rich ones. Within an item ``inner`` decides for each tile or
    frame on its own, as long as there is a token for each; else for the whole item.

    Parameters
    ----------
    inner : Method or str
        The method that chooses, as such or by name.
    measure : str
        ``"spread"``: one less the length of the mean of the tokens at length one, their mean
        distance, by cosine, from their own mean; ``"rank"``: the number of directions that they
        fill, per token (participation ratio of the spectrum of their cosines).
    strength : float
        How strongly the measure counts, at least 0; at 0 shares follow sizes.
    within : bool
        Whether to spread over tiles and frames too.
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
        """Return the claim ``(B,)`` of each stack of tokens ``(B, N, C)``."""
        x = unit(x)
        measure: Tensor
        if self.measure == "spread":
            measure = 1.0 - x.mean(dim=1).norm(dim=1)
        else:
            gram = x @ x.mT if x.shape[1] < x.shape[2] else x.mT @ x
            rank = x.square().sum(dim=(1, 2)) ** 2 / gram.square().sum(dim=(1, 2)).clamp_min(1e-30)
            measure = rank / x.shape[1]
        return measure.clamp_min(0.0).pow(self.strength) * x.shape[1]
