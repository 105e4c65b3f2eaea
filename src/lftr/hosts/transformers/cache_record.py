"""The record of which columns each layer of a cache holds, where layers hold different tokens.

Outside the layers, such a cache reports the length of the whole prompt: the model makes masks and
positions for all of it, and each layer takes the part of them that belongs to its columns.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...values.errors import UnsupportedModelError

_NAME = "_lftr_columns"


@dataclass
class CachedColumns:
    """Which columns of the conversation each layer of a cache holds.

    Attributes
    ----------
    kept : list of Tensor or None
        For each layer, which of the first ``prefix`` columns it holds, ``(B, n)`` in the order in
        which they were cached, -1 for padding; None where the layer holds them all.
    prefix : int
        Number of columns that ``kept`` is about; every layer holds all later ones.
    length : int
        Columns of the whole conversation.
    log_weights : list of Tensor or None
        For each layer, the logarithms ``(B, n)`` of how many tokens the first ``n`` columns stand
        for; None where that is as it was before the first layer.
    """

    kept: list[Tensor | None]
    prefix: int
    length: int
    log_weights: list[Tensor | None]

    @classmethod
    def everything(cls, depth: int, length: int) -> CachedColumns:
        """Return the record of a cache whose layers hold all of ``length`` columns."""
        return cls([None] * depth, length, length, [None] * depth)

    def entries(self, layer: int) -> int:
        """Return the number of columns that a layer holds."""
        kept = self.kept[layer]
        return self.length - self.prefix + (self.prefix if kept is None else kept.shape[1])

    def columns(self, layer: int, new: Tensor) -> Tensor:
        """Return the columns behind a layer's keys once ``new`` ``(B, q)`` are cached."""
        kept = self.kept[layer]
        first = 0 if kept is None else self.prefix
        later = torch.arange(first, self.length, device=new.device).expand(len(new), -1)
        parts = [later, new] if kept is None else [kept.to(new.device), later, new]
        return torch.cat(parts, dim=1)

    def shortened(self, missing: int) -> None:
        """Remove the last ``missing`` columns, which were cropped from every layer."""
        self.length -= missing
        cut = self.prefix - self.length
        if cut <= 0:
            return
        for layer, kept in enumerate(self.kept):
            if kept is None:
                continue
            if bool((kept[:, -cut:] < self.length).any()) or kept.shape[1] < cut:
                raise UnsupportedModelError(
                    f"the cache was cropped by {missing} columns, into visual tokens that "
                    f"layer {layer} had dropped; start again without the cache"
                )
            self.kept[layer] = kept[:, :-cut]
        self.prefix = self.length

    def for_rows(self, rows: int) -> None:
        """Repeat the record for a cache whose rows were repeated."""
        for layer, kept in enumerate(self.kept):
            if kept is None or len(kept) == rows:
                continue
            if rows % len(kept):
                raise UnsupportedModelError(
                    f"the cache was filled with {len(kept)} rows; now there are {rows}"
                )
            self.kept[layer] = kept.repeat_interleave(rows // len(kept), dim=0)
        for layer, logs in enumerate(self.log_weights):
            if logs is not None and len(logs) != rows:
                self.log_weights[layer] = logs.repeat_interleave(rows // len(logs), dim=0)


def cached_columns_of(cache: Any) -> CachedColumns | None:
    """Return the columns that a cache's layers hold; None if every layer holds all of them."""
    if not isinstance(cache, _PartlyFilled):
        return None
    layers = (one for one in cache.layers if hasattr(one, "get_mask_sizes"))
    if not any(int(one.get_seq_length()) for one in layers):  # it was reset
        cache.__class__ = cache.plain_class
        delattr(cache, _NAME)
        return None
    cached: CachedColumns = getattr(cache, _NAME)
    _catch_up(cache, cached)
    return cached


def attach_columns(cache: Any, cached: CachedColumns) -> None:
    """Attach the record to a cache, which copies it too and then reports its full length."""
    if not isinstance(cache, _PartlyFilled):
        cache.__class__ = _partly_filled(cache.__class__)
    setattr(cache, _NAME, cached)


def layer_sizes(cache: Any, layer: int, queries: int) -> tuple[int, int]:
    """Return the number of a layer's keys with ``queries`` more, and the column of the first."""
    if layer >= len(cache.layers):  # filled for the first time
        return queries, 0
    length, offset = cache.layers[layer].get_mask_sizes(queries)
    return int(length), int(offset)


def whole_layers(cache: Any) -> list[tuple[int, int]]:
    """Return the number and length of each layer that keeps all the columns it receives.

    Static layers and sliding windows have another length; linear attention has none.
    """
    return [
        (number, int(layer.get_seq_length()))
        for number, layer in enumerate(getattr(cache, "layers", ()))
        if hasattr(layer, "get_mask_sizes")
        and layer.is_initialized
        and not (layer.is_sliding or layer.is_compileable)
    ]


def cache_sizes(cache: Any, length: int) -> tuple[int, int]:
    """Return the bytes of a cache's keys and values, and of those of a cache with all columns.

    The bytes of static caches do not depend on what is dropped, nor do those of full windows.
    """
    actual = full = 0
    for layer in getattr(cache, "layers", ()):
        keys, values = getattr(layer, "keys", None), getattr(layer, "values", None)
        if not isinstance(keys, Tensor) or not isinstance(values, Tensor):
            continue
        if keys.ndim != 4 or not keys.shape[-2]:  # quantised layers keep no such keys
            continue
        taken = keys.nbytes + values.nbytes
        actual += taken
        if not layer.is_compileable:
            most = min(length, layer.sliding_window - 1) if layer.is_sliding else length
            taken = taken * most // keys.shape[-2]
        full += taken
    return actual, full


def _catch_up(cache: Any, cached: CachedColumns) -> None:
    """Remove columns that assisted decoding has cropped since the last call."""
    for layer, one in enumerate(cache.layers):
        if hasattr(one, "get_mask_sizes"):
            missing = cached.entries(layer) - int(one.get_seq_length())
            if missing > 0:
                cached.shortened(missing)
            return


class _PartlyFilled:
    """A cache whose layers hold different columns; it reports the length of the whole prompt.

    `_partly_filled` derives a class from this one and the cache's own class. The cache then needs
    no reference to itself, so it is freed as soon as its owner drops it.
    """

    layers: list[Any]
    plain_class: ClassVar[type]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return the number of columns of the whole conversation, for every layer."""
        cached = cached_columns_of(self)
        return 0 if cached is None else cached.length

    def get_query_offset(self, layer_idx: int = 0) -> int:
        """Return the column of the next token."""
        return self.get_seq_length()

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """Return the sizes of the model's own mask, which is made for the whole prompt."""
        return self.get_seq_length() + query_length, 0

    def __reduce_ex__(self, protocol: object) -> tuple[Any, ...]:
        return _restored, (self.plain_class,), self.__dict__


@functools.cache
def _partly_filled(plain: type) -> type:
    """Return a subclass of the cache class ``plain`` with the methods of `_PartlyFilled`."""
    return type(plain.__name__, (_PartlyFilled, plain), {"plain_class": plain})


def _restored(plain: type) -> Any:
    """Return a copied or unpickled cache, still without its contents."""
    kind: Any = _partly_filled(plain)
    return kind.__new__(kind)
