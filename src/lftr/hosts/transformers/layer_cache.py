"""What every layer of a cache holds, where layers hold different tokens.

To whoever asks from outside, such a cache is as long as the prompt: masks and positions are made
for all of it, and each layer takes from them what it has.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...errors import UnsupportedModelError

_NAME = "_lftr_columns"


@dataclass
class Held:
    """Which columns of the conversation each layer of a cache holds.

    Attributes
    ----------
    begun : list of Tensor or None
        For each layer, columns ``(B, n)`` of the first ``prefix`` ones in the order in which they
        were cached, -1 where it is padding; None where the layer has them all.
    prefix : int
        Columns that ``begun`` speaks of; every layer has all later ones.
    length : int
        Columns of the whole conversation.
    """

    begun: list[Tensor | None]
    prefix: int
    length: int

    @classmethod
    def everything(cls, depth: int, length: int) -> Held:
        """Return the record of a cache whose layers have all of ``length`` columns."""
        return cls([None] * depth, length, length)

    def entries(self, layer: int) -> int:
        """Entries that a layer's cache was given."""
        begun = self.begun[layer]
        return self.length - self.prefix + (self.prefix if begun is None else begun.shape[1])

    def columns(self, layer: int, new: Tensor) -> Tensor:
        """Return the columns behind a layer's keys once ``new`` ``(B, q)`` are cached."""
        begun = self.begun[layer]
        first = 0 if begun is None else self.prefix
        later = torch.arange(first, self.length, device=new.device).expand(len(new), -1)
        parts = [later, new] if begun is None else [begun.to(new.device), later, new]
        return torch.cat(parts, dim=1)

    def shortened(self, missing: int) -> None:
        """Take note that the last ``missing`` columns were cropped from every layer."""
        self.length -= missing
        cut = self.prefix - self.length
        if cut <= 0:
            return
        for layer, begun in enumerate(self.begun):
            if begun is None:
                continue
            if bool((begun[:, -cut:] < self.length).any()) or begun.shape[1] < cut:
                raise UnsupportedModelError(
                    f"past_key_values was cropped by {missing} columns, into visual tokens that "
                    f"layer {layer} had dropped; start again without the cache"
                )
            self.begun[layer] = begun[:, :-cut]
        self.prefix = self.length

    def for_rows(self, rows: int) -> None:
        """Repeat the record for a cache whose rows were repeated."""
        for layer, begun in enumerate(self.begun):
            if begun is None or len(begun) == rows:
                continue
            if rows % len(begun):
                raise UnsupportedModelError(
                    f"past_key_values was cached with {len(begun)} rows; now there are {rows}"
                )
            self.begun[layer] = begun.repeat_interleave(rows // len(begun), dim=0)


def held_by(cache: Any) -> Held | None:
    """Return what a cache's layers hold, or None if each has all there is."""
    held: Held | None = getattr(cache, _NAME, None)
    if held is None:
        return None
    lengths = [int(one.get_seq_length()) for one in cache.layers if hasattr(one, "get_mask_sizes")]
    if not any(lengths):  # it was reset
        for name in (_NAME, *_ANSWERS):
            delattr(cache, name)
        return None
    _catch_up(cache, held)
    return held


def hold(cache: Any, held: Held) -> None:
    """Let a cache carry the record, through copies too, and speak of its full length."""
    setattr(cache, _NAME, held)
    for name, answer in _ANSWERS.items():
        setattr(cache, name, functools.partial(answer, cache))


def layer_sizes(cache: Any, layer: int, queries: int) -> tuple[int, int]:
    """Return how many keys a layer will see with ``queries`` more, and the first one's number."""
    if layer >= len(cache.layers):  # filled for the first time
        return queries, 0
    length, offset = cache.layers[layer].get_mask_sizes(queries)
    return int(length), int(offset)


def cache_bytes(cache: Any, length: int) -> tuple[int, int]:
    """Return the bytes of a cache's keys and values, and of the same with all layers at length.

    Static caches and sliding windows take what they take, whatever is dropped.
    """
    own = full = 0
    for layer in getattr(cache, "layers", ()):
        keys, values = getattr(layer, "keys", None), getattr(layer, "values", None)
        if not isinstance(keys, Tensor) or not isinstance(values, Tensor):
            continue
        if keys.ndim != 4 or not keys.shape[-2]:  # quantised layers keep no such keys
            continue
        taken = keys.nbytes + values.nbytes
        grows = not layer.is_sliding and not layer.is_compileable
        own += taken
        full += taken * length // keys.shape[-2] if grows else taken
    return own, full


def _catch_up(cache: Any, held: Held) -> None:
    """Notice what assisted decoding took back since."""
    for layer, one in enumerate(cache.layers):
        if hasattr(one, "get_mask_sizes"):
            missing = held.entries(layer) - int(one.get_seq_length())
            if missing > 0:
                held.shortened(missing)
            return


def _length(cache: Any, layer_idx: int = 0) -> int:
    held = held_by(cache)
    return 0 if held is None else held.length


def _mask_sizes(cache: Any, query_length: int, layer_idx: int) -> tuple[int, int]:
    if held_by(cache) is None:  # it was reset, and speaks for itself again
        sizes: tuple[int, int] = cache.get_mask_sizes(query_length, layer_idx)
        return sizes
    return _length(cache) + query_length, 0


_ANSWERS: dict[str, Callable[..., Any]] = {
    "get_seq_length": _length,
    "get_query_offset": _length,
    "get_mask_sizes": _mask_sizes,
}
