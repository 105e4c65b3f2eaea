"""Optimal transport with an entropy term, between tokens of equal mass."""

from __future__ import annotations

import torch
from torch import Tensor


def sinkhorn(cost: Tensor, epsilon: float, iterations: int = 100) -> Tensor:
    """Return the plan that moves equal masses of sources to equal masses of targets.

    Parameters
    ----------
    cost : Tensor of float64, shape (..., S, M)
        Cost of moving one unit from each source to each target, at least 0.
    epsilon : float
        Weight of the entropy, above 0.
    iterations : int
        Scalings of rows and columns.

    Returns
    -------
    Tensor, shape (..., S, M)
        Its columns sum to 1 / M, and its rows nearly to 1 / S.

    Notes
    -----
    Cuturi, "Sinkhorn Distances: Lightspeed Computation of Optimal Transport", 2013.
    """
    kernel = torch.exp(-cost / epsilon)
    sources, targets = cost.shape[-2:]
    column = torch.ones_like(cost[..., :1, :])
    row = torch.ones_like(cost[..., :1])
    for _ in range(iterations):
        row = 1.0 / sources / (kernel * column).sum(dim=-1, keepdim=True)
        column = 1.0 / targets / (kernel * row).sum(dim=-2, keepdim=True)
    return row * kernel * column
