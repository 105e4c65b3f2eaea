"""Gather along any dimension, by one index for all rows of a batch or one for each row."""

from __future__ import annotations

import torch
from torch import Tensor


def take(x: Tensor, index: Tensor, dim: int) -> Tensor:
    """Return the entries of ``x`` at ``index`` along ``dim``.

    Parameters
    ----------
    x : Tensor
        Any shape; with a two-dimensional index its first dimension is the batch.
    index : Tensor of int64, shape (K,) or (B, K)
        Places to take, for all rows or for each.
    dim : int
        Dimension of ``x`` that shrinks to ``K``.
    """
    index = index.to(x.device)
    if index.ndim == 1:
        return x.index_select(dim, index)
    dim %= x.ndim
    if len(x) == len(index) == 1:
        return x.index_select(dim, index[0])
    if dim == 1 and x.ndim > 2 and x.is_contiguous():  # whole rows at a time
        first = torch.arange(len(x), device=x.device).unsqueeze(1) * x.shape[1]
        rows = x.flatten(0, 1).index_select(0, (index + first).flatten())
        return rows.view(*index.shape, *x.shape[2:])
    if dim == 1:
        return x[torch.arange(len(x), device=x.device).unsqueeze(1), index]
    shape = [1] * x.ndim
    shape[0], shape[dim] = index.shape
    target = list(x.shape)
    target[dim] = index.shape[1]
    return x.gather(dim, index.reshape(shape).expand(target))
