"""Control: fewer frames."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch

from ...options.checks import Range
from ...values.selection import Selection
from ...values.source import Source
from ...values.tokens import VisualTokens
from ..operations.cells import centres, evenly_spaced
from .base import ClipMethod


@dataclass(frozen=True)
class FrameSample(ClipMethod, name="frame-sample"):
    """Keep frames at equal steps through the clip, each of them whole, and drop the others.

    The control that any method for videos must beat: sampling fewer frames at the same number of
    tokens. As many frames are taken as the budget needs. They share it evenly; if it does not
    suffice for all of their tokens, evenly spread tokens of each are kept.

    Parameters
    ----------
    share : float
        Share in (0, 1] of a frame's tokens. Below 1, more frames are taken, each reduced to that
        share.
    """

    source = Source("this project", note="a control")
    share: Annotated[float, Range(1e-6, 1.0)] = 1.0

    sees_features: ClassVar[bool] = False

    def clips(self, tokens: VisualTokens, keep: int) -> Selection:
        frames, height, width = tokens.blocks[0]
        size = height * width
        taken = min(frames, keep, math.ceil(keep / math.ceil(self.share * size)))
        frame = VisualTokens(tokens.features[:, :size], grid=(1, height, width))
        each, more = divmod(keep, taken)
        parts = [
            evenly_spaced(frame, each + (i < more)) + start * size
            for i, start in enumerate(centres(frames, taken).tolist())
        ]
        return Selection(torch.cat(parts).expand(len(tokens.features), -1))
