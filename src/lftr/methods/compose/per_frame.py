"""Apply any method to each frame separately."""

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
    """Let ``inner`` decide for every frame or tile separately, as if each were an image.

    All frames keep the same share of their tokens; `Adaptive` gives more to frames with more varied
    content. With fewer slots than frames, evenly spread frames keep one token each.

    Without this wrapper, most methods treat the tokens of all frames together: they rank or compare
    them over the whole clip. A few have a rule for frames of their own (``lftr``, ``pool``,
    ``interpolate``, ``aim``, ``hiprune``).

    Parameters
    ----------
    inner : Method or str
        The method that chooses, as an object or a name.
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
