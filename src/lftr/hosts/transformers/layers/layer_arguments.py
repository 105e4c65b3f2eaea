"""The arguments of decoder layers for those columns of a call that a layer works on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..api import Cache
from ..cache_record import CachedColumns, layer_sizes
from .masks import layer_mask, rows_of


class LayerArguments:
    """Arguments, key columns and masks of layers, computed once for layers with equal columns.

    A "column" is a column of the call or, where it says so, of the whole conversation.

    Parameters
    ----------
    everything : Tensor of int64, shape (B, L)
        All columns of the call.
    past : int
        Number of columns of the conversation before this call.
    cached : CachedColumns, optional
        Which of those the cache's layers hold; None if all.
    depth : int
        Number of layers.
    """

    def __init__(
        self, everything: Tensor, past: int, cached: CachedColumns | None, depth: int
    ) -> None:
        self.everything = everything
        self.past = past
        self.cached = cached
        self.depth = depth
        # with the tensors that an entry was computed from, so that their ids are not reused
        self._known: dict[tuple[object, ...], Any] = {}

    def in_conversation(self, columns: Tensor) -> Tensor:
        """Return columns of the call as columns of the conversation, -1 for padding."""
        return torch.where(columns >= 0, columns + self.past, -1)

    def at(self, value: Any, columns: Tensor) -> Any:
        """Return an argument of a layer, and every tensor in it, at ``columns`` ``(B, R)``."""
        if columns is self.everything:
            return value
        if isinstance(value, (tuple, list)):
            return type(value)(self.at(one, columns) for one in value)
        length = self.everything.shape[1]
        aligned = isinstance(value, Tensor) and value.ndim > 1 and value.shape[1] == length
        if not aligned or len(value) not in (1, len(columns)):
            return value
        key = ("at", id(value), id(columns))
        if key not in self._known:
            self._known[key] = rows_of(value, columns), value, columns
        return self._known[key][0]

    def keys(self, number: int, new: Tensor, cache: Cache | None) -> Tensor:
        """Return the columns of the conversation of all keys that a layer's kernel receives.

        Parameters
        ----------
        new : Tensor of int64, shape (B, R)
            Columns of the call whose keys the layer adds.
        cache : Cache, optional
            None if the layer caches nothing.
        """
        kept = None if self.cached is None else self.cached.kept[number]
        length, offset = new.shape[1], 0
        if cache is not None:
            length, offset = layer_sizes(cache, number, new.shape[1])
        key = ("keys", id(kept), id(new), length, offset)
        if key not in self._known:
            columns = self.in_conversation(new)
            if cache is not None:
                cached = self.cached or CachedColumns.everything(self.depth, self.past)
                columns = cached.columns(number, columns)[:, offset : offset + length]
                missing = length - columns.shape[1]
                columns = torch.nn.functional.pad(columns, (0, missing), value=-1)
            self._known[key] = columns, kept, new
        result: Tensor = self._known[key][0]
        return result

    def mask(self, full: Any, columns: Tensor, keys: Tensor, flat: bool) -> Any:
        """Return the model's mask between ``columns`` and ``keys``; see `layer_mask`."""
        key = ("mask", id(full), id(columns), id(keys))
        if key not in self._known:
            mask = layer_mask(full, self.in_conversation(columns), keys, self.past, flat)
            self._known[key] = mask, full, columns, keys
        return self._known[key][0]
