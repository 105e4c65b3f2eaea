"""FiCoCo's two steps: which tokens are redundant, and among which kept ones each is divided."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ...values.indexing import take
from ...values.selection import Flow
from .scaling import unit


def usefulness(seen: Tensor, received: Tensor, share: float) -> Tensor:
    """Return ``share * seen - (1 - share) * received`` ``(B, N)``, both at length 1.

    A token is useful if the CLS token attends to it (``seen``), and redundant if all tokens do
    (``received``).
    """
    return share * normalize(seen, dim=1) - (1.0 - share) * normalize(received, dim=1)


def least_useful(value: Tensor, window: Tensor, count: int, penalty: float) -> Tensor:
    """Return the ``count`` tokens ``(B, count)`` of the lowest value, spread over the windows.

    In every window the lowest value is lowered further, by the factor ``penalty``.

    Parameters
    ----------
    value : Tensor, shape (B, N)
        ``inf`` for tokens that are not to be returned.
    window : Tensor of int64, shape (B, N)
        The window of each token.
    """
    least = value.new_full((len(value), int(window.max()) + 1), torch.inf)
    least = least.scatter_reduce(1, window, value, "amin").gather(1, window)
    lower = torch.where(value > 0, value / penalty, value * penalty)
    return torch.where(value == least, lower, value).argsort(dim=1, stable=True)[:, :count]


def divided(metric: Tensor, kept: Tensor, dropped: Tensor, quantile: float) -> Flow:
    """Return the flow in which each dropped token is divided among the kept ones most like it.

    By the softmax of the cosines of ``metric`` ``(B, N, E)``, among the kept tokens above the
    quantile, at least one. A slot is the mean of its token, with weight one, and of what it gets.

    Parameters
    ----------
    kept, dropped : Tensor of int64, shapes (B, K) and (B, D)
        Tokens; the slots are in the order of ``kept``.
    """
    near, keep = unit(metric.float()), kept.shape[1]
    alike = take(near, dropped, 1) @ take(near, kept, 1).mT
    best = alike.topk(max(1, keep - 1 - int(quantile * (keep - 1))), dim=2)
    slot, share = best.indices.flatten(1), best.values.softmax(2).flatten(1)
    source = dropped.repeat_interleave(best.indices.shape[2], dim=1)
    itself = torch.arange(keep, device=kept.device).expand_as(kept)
    slot, source = torch.cat([itself, slot], dim=1), torch.cat([kept, source], dim=1)
    share = torch.cat([torch.ones_like(itself, dtype=share.dtype), share], dim=1)
    load = torch.zeros_like(itself, dtype=share.dtype).scatter_add(1, slot, share)
    return Flow(source, slot, share / load.gather(1, slot), share)
