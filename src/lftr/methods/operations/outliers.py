"""Count outliers."""

from __future__ import annotations

import torch
from torch import Tensor


def outlier_count(scores: Tensor, factor: float = 1.5) -> Tensor:
    """Return how many scores ``(..., N)`` exceed ``Q3 + factor * IQR`` in each row, int64.

    Quartiles are interpolated linearly, as NumPy's percentile does.
    """
    levels = torch.tensor([0.25, 0.75], device=scores.device)
    first, third = scores.float().quantile(levels, dim=-1)
    fence = third + factor * (third - first)
    above: Tensor = scores > fence.unsqueeze(-1)
    return above.sum(dim=-1)
