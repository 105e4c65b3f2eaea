"""EVS: keep the first frame, and the tokens that differ most from the frame before."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch

from ...options.checks import Range
from ...values.selection import Selection
from ...values.source import Source
from ...values.tokens import VisualTokens
from ..operations.cells import evenly_spaced
from ..operations.motion import stillness
from .base import ClipMethod, by_frame


@dataclass(frozen=True)
class EVS(ClipMethod, name="evs"):
    """Keep the first frame, and of the others the tokens least similar to the frame before.

    Tokens are compared at the same position by cosine and ranked over the whole clip. The tokens of
    the first frame come first; if the budget is smaller than a frame, evenly spread tokens of it
    are kept.

    Parameters
    ----------
    first : float
        Largest share in [0, 1] of the budget that the first frame may use; 1 as published. Its
        remaining tokens come after all others.

    Notes
    -----
    In vLLM the budget is ``max(N, int(T * N * (1 - q)))`` for frames of ``N`` tokens.
    Differs from the original: budgets of less than one frame are possible (there they are raised to
    one frame).
    """

    source = Source(
        "EVS",
        code="https://github.com/vllm-project/vllm",
        function="compute_retention_mask",
        note="Efficient Video Sampling, as in vLLM; no paper is known to us",
    )
    first: Annotated[float, Range(0.0, 1.0)] = 1.0

    def clips(self, tokens: VisualTokens, keep: int) -> Selection:
        frames, height, width = tokens.blocks[0]
        x = by_frame(tokens, tokens.features)
        score = torch.full(x.shape[:3], -torch.inf, device=x.device)
        score[:, 1:] = 1.0 - stillness(x)
        size = height * width
        whole = min(size, math.ceil(self.first * keep)) if frames > 1 else keep
        if whole:
            frame = VisualTokens(x[:, 0], grid=(1, height, width))
            score[:, 0, evenly_spaced(frame, whole)] = torch.inf
        return Selection.top(score.flatten(1), keep)
