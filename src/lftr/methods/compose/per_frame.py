"""Any method, for each frame on its own."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ...values.selection import Selection
from ...values.tokens import VisualTokens
from ..base import Method
from ..operations.apportion import apportion
from ..operations.blocks import blockwise, frames_of
from ..operations.cells import centres
from .base import Wrapper, decide


@dataclass(frozen=True)
class PerFrame(Wrapper):
    """Let ``inner`` decide for every frame or tile on its own, as if each were an image.

    All keep the same share of their tokens; `Adaptive` gives more to those that have more to say.
    With fewer slots than frames, evenly spread frames keep one token each.

    Without this, methods that score token by token rank those of all frames together, those that
    look for what is far apart or alike do so over the whole clip, and those with a rule for frames
    follow it (``lftr``, ``pool``, ``interpolate``, ``aim``, ``hiprune``).

    Parameters
    ----------
    inner : Method or str
        The method that chooses, as such or by name.
    """

    inner: Method | str

    def choose(self, tokens: VisualTokens, keep: int) -> Selection:
        method = self.methods[0]
        sizes = torch.tensor([[rows * columns for _, rows, columns in frames_of(tokens)]])
        if sizes.shape[1] == 1:
            return decide(method, tokens, keep)
        if keep < sizes.shape[1]:
            counts = torch.zeros_like(sizes)
            counts[0, centres(sizes.shape[1], keep)] = 1
        else:
            counts = apportion(keep, sizes, sizes, least=1)
        shared = counts.tolist() * len(tokens.features)
        return blockwise(tokens, shared, lambda frame, count: decide(method, frame, count))
