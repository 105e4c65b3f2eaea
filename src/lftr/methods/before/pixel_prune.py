"""PixelPrune: keep the patches that their neighbours do not predict."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from ...options.checks import Range
from ...values.selection import Selection
from ...values.source import Source
from ...values.tokens import Grid, VisualTokens
from ..base import Evidence, Method
from ..operations.signals import ENCODER, encoder_features


@dataclass(frozen=True)
class PixelPrune(Method, name="pixel-prune"):
    """Keep the patches that differ most from a prediction made of their neighbours (LOCO-I).

    The prediction is the patch above if the left and the diagonal neighbour are equal and the one
    above differs from them; otherwise the patch on the left; in the first column, the one above.
    The first patch has no prediction and is kept. ``keep="auto"`` keeps all patches that differ
    from their prediction by more than ``threshold``, as published.

    Parameters
    ----------
    threshold : float
        Largest difference in any channel at which two patches count as equal; 0 is lossless.

    Notes
    -----
    Evidence: encoder features. The original compares pixels of merged patches before the encoder;
    give these as ``features`` to get its behaviour. Encoder features of equal patches differ, so
    patches are ranked here, and ``auto`` needs a threshold.
    Differs from the original: K is exact. Patches are ranked by their largest difference in a
    channel; ties go to the earlier token.
    """

    source = Source("PixelPrune", arxiv="2604.00886")
    threshold: Annotated[float, Range(0.0)] = 0.0

    @property
    def evidence(self) -> Evidence:
        return (ENCODER,)

    def choose(self, tokens: VisualTokens, keep: int) -> Selection:
        x, notes = encoder_features(tokens)
        return Selection.top(surprise(x.float(), tokens.blocks, self.threshold), keep, notes)

    def auto_count(self, tokens: VisualTokens) -> list[int]:
        x, _ = encoder_features(tokens)
        scores = surprise(x.float(), tokens.blocks, self.threshold)
        return [int(count) for count in (scores > self.threshold).sum(dim=1)]


def surprise(x: Tensor, blocks: tuple[Grid, ...], threshold: float) -> Tensor:
    """Return the largest difference ``(B, N)`` of each patch from its prediction.

    Infinite for the first patch of a frame, which has no prediction.
    """
    scores = x.new_full(x.shape[:2], torch.inf)
    low = 0
    for block in blocks:
        high = low + math.prod(block)
        grid = x[:, low:high].unflatten(1, block)  # (B, T, H, W, C)
        out = scores[:, low:high].unflatten(1, block)
        across = (grid[..., 1:, :] - grid[..., :-1, :]).abs().amax(dim=-1)
        down = (grid[..., 1:, :, :] - grid[..., :-1, :, :]).abs().amax(dim=-1)
        out[..., 0, 1:] = across[..., 0, :]
        out[..., :, 0][..., 1:] = down[..., 0]
        follow_above = (down[..., :-1] <= threshold) & (across[..., :-1, :] > threshold)
        out[..., 1:, 1:] = torch.where(follow_above, down[..., 1:], across[..., 1:, :])
        low = high
    return scores
