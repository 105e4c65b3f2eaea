"""Rank tokens within parts of an item."""

from __future__ import annotations

import torch
from torch import Tensor


def turns(scores: Tensor, part: Tensor) -> Tensor:
    """Return the place of each token among those of its part, by falling score, from 0.

    Ties go to the earlier token.

    Parameters
    ----------
    scores : Tensor, shape (B, N)
    part : Tensor of int64, shape (N,) or (B, N)
        Part of each token.

    Returns
    -------
    Tensor of int64, shape (B, N)
    """
    part = part.expand(scores.shape)
    order = scores.argsort(dim=1, descending=True, stable=True)
    order = order.gather(1, part.gather(1, order).argsort(dim=1, stable=True))  # part by part
    sizes = part.new_zeros(len(part), int(part.max()) + 1)
    sizes = sizes.scatter_add(1, part, torch.ones_like(part))
    first = (sizes.cumsum(dim=1) - sizes).gather(1, part.gather(1, order))
    place = torch.arange(part.shape[1], device=part.device) - first
    return torch.empty_like(order).scatter_(1, order, place)
