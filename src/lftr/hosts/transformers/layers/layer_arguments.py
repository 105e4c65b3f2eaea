"""What goes along with a layer's rows: its arguments, the columns behind its keys, its mask."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..api import Cache
from ..cache_record import Held, layer_sizes
from .masks import layer_mask, rows_of


class Along:
    """Arguments of decoder layers at some of their rows, each computed once for all layers alike.

    Parameters
    ----------
    everything : Tensor of int64, shape (B, L)
        All rows of the call.
    past : int
        Columns before this call.
    held : Held, optional
        What the cache's layers hold of them.
    depth : int
        Number of layers.
    """

    def __init__(self, everything: Tensor, past: int, held: Held | None, depth: int) -> None:
        self.everything = everything
        self.past = past
        self.held = held
        self.depth = depth
        # with what made it, so that ids stay theirs
        self._known: dict[tuple[object, ...], Any] = {}

    def columns(self, rows: Tensor) -> Tensor:
        """Return the columns of the conversation that rows of the call stand in, -1 for padding."""
        return torch.where(rows >= 0, rows + self.past, -1)

    def at(self, value: Any, rows: Tensor) -> Any:
        """Return an argument of a layer, and every tensor in it, at ``rows`` ``(B, R)``."""
        if rows is self.everything:
            return value
        if isinstance(value, (tuple, list)):
            return type(value)(self.at(one, rows) for one in value)
        length = self.everything.shape[1]
        aligned = isinstance(value, Tensor) and value.ndim > 1 and value.shape[1] == length
        if not aligned or len(value) not in (1, len(rows)):
            return value
        key = ("at", id(value), id(rows))
        if key not in self._known:
            self._known[key] = rows_of(value, rows), value, rows
        return self._known[key][0]

    def keys(self, number: int, new: Tensor, cache: Cache | None) -> Tensor:
        """Return the columns behind a layer's keys, as many as its kernel will be given.

        Parameters
        ----------
        new : Tensor of int64, shape (B, R)
            Rows whose keys the layer adds.
        cache : Cache, optional
            Where the layer has one.
        """
        begun = None if self.held is None else self.held.begun[number]
        length, offset = new.shape[1], 0
        if cache is not None:
            length, offset = layer_sizes(cache, number, new.shape[1])
        key = ("keys", id(begun), id(new), length, offset)
        if key not in self._known:
            columns = self.columns(new)
            if cache is not None:
                held = self.held or Held.everything(self.depth, self.past)
                columns = held.columns(number, columns)[:, offset : offset + length]
                missing = length - columns.shape[1]
                columns = torch.nn.functional.pad(columns, (0, missing), value=-1)
            self._known[key] = columns, begun, new
        found: Tensor = self._known[key][0]
        return found

    def mask(self, full: Any, rows: Tensor, keys: Tensor, flat: bool) -> Any:
        """Return the part of the model's mask between ``rows`` and ``keys``; see `layer_mask`."""
        key = ("mask", id(full), id(rows), id(keys))
        if key not in self._known:
            mask = layer_mask(full, self.columns(rows), keys, self.past, flat)
            self._known[key] = mask, full, rows, keys
        return self._known[key][0]
