"""One layer's part of the mask that the model made for the full prompt."""

from __future__ import annotations

import torch
from torch import Tensor


def rows_of(x: Tensor, index: Tensor) -> Tensor:
    """Return ``x`` ``(B or 1, L, ...)`` at ``index`` ``(B, R)``; -1 takes the first row."""
    place = index.clamp(min=0).to(x.device)
    if len(index) == 1:
        return x.index_select(1, place[0])
    x = x.expand(len(index), *x.shape[1:])
    shape = (*place.shape, *x.shape[2:])
    return x.gather(1, place.reshape(*place.shape, *[1] * (x.ndim - 2)).expand(shape))


def layer_mask(
    full: Tensor | None, queries: Tensor, keys: Tensor, past: int, flat: bool
) -> Tensor | None:
    """Return the mask between a layer's queries and keys.

    Parameters
    ----------
    full : Tensor, optional
        The mask for the full prompt: ``(B, 1, q, L)`` bool or additive, ``(B, L)`` for kernels that
        take padding alone, or None if every column attends to all before it.
    queries : Tensor of int64, shape (B, R)
        Columns of the conversation that the layer works on, -1 for padding.
    keys : Tensor of int64, shape (B, S)
        Columns of its keys, -1 for padding and free places of a static cache.
    past : int
        Columns before this call.
    flat : bool
        Whether the kernel takes padding alone (FlashAttention).
    """
    real = keys >= 0
    if flat:
        seen = real if full is None else full.gather(1, keys.clamp(min=0)).bool() & real
        # without a mask, the kernel would take gaps in a later turn's positions for borders
        return None if not past and bool(seen.all()) else seen.long()
    if full is None:
        if _plain(queries, keys, past):
            return None
        return ((keys.unsqueeze(1) <= queries.unsqueeze(2)) & real.unsqueeze(1)).unsqueeze(1)
    offset = min(0, full.shape[3] - past - full.shape[2])  # a mask of the latest keys alone
    taken = full.expand(len(queries), *full.shape[1:]).transpose(1, 2)
    taken = rows_of(taken, (queries - past).clamp(min=0)).transpose(1, 2)
    taken = rows_of(taken.movedim(3, 1), keys + offset).movedim(1, 3)
    hidden = ~real[:, None, None]
    low = False if taken.dtype == torch.bool else torch.finfo(taken.dtype).min
    return taken.masked_fill(hidden, low) if bool(hidden.any()) else taken.contiguous()


def local_mask(full: Tensor | None, rows: Tensor) -> Tensor | None:
    """Return the mask ``(B, R)`` over a linear-attention layer's own rows."""
    real = rows >= 0
    if full is None:
        return None if bool(real.all()) else real.long()
    return rows_of(full.unsqueeze(2), rows).squeeze(2) * real.to(full.dtype)


def _plain(queries: Tensor, keys: Tensor, past: int) -> bool:
    """Whether these queries, too, attend to all of these keys before them."""
    count = queries.shape[1]
    if past:
        return count == 1 and bool((keys >= 0).all())
    later = bool((keys[:, count:] >= 0).any())  # a static cache's keys to come are hidden anyway
    return not later and bool((queries >= 0).all()) and torch.equal(keys[:, :count], queries)
