"""The columns of a prompt that are kept, and the record of them on a cache."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...values.errors import UnsupportedModelError
from .api import ALIGNED, Cache

_NAME = "_lftr_prompt"  # the attribute of a cache that holds its record


@dataclass(frozen=True)
class Columns:
    """Which columns of a full prompt a shorter one holds.

    Parameters
    ----------
    index : Tensor of int64, shape (B, L')
        Column of the full prompt; arbitrary where ``real`` is false.
    real : Tensor of bool, shape (B, L')
        Whether this is a token, not padding.
    """

    index: Tensor
    real: Tensor

    @classmethod
    def of(cls, keep: Tensor, pad_left: bool) -> Columns:
        """Return the kept columns of ``keep`` ``(B, L)``, padded to the longest row."""
        longest = int(keep.sum(dim=1).max())
        if pad_left:
            index = keep.to(torch.uint8).argsort(dim=1, stable=True)[:, keep.shape[1] - longest :]
        else:
            index = keep.to(torch.uint8).argsort(dim=1, stable=True, descending=True)[:, :longest]
        return cls(index, keep.gather(1, index))

    def take(self, x: Tensor, fill: int) -> Tensor:
        """Return ``x`` ``(..., B, L)`` at these columns, ``fill`` where they are padding."""
        taken = x.gather(-1, self.index.expand(*x.shape[:-2], *self.index.shape))
        return taken.masked_fill(~self.real, fill)

    def join(self, other: Columns, offset: int) -> Columns:
        """Return these columns followed by ``other``'s, which start at column ``offset``."""
        return Columns(
            torch.cat([self.index, other.index + offset], dim=1),
            torch.cat([self.real, other.real], dim=1),
        )


@dataclass(frozen=True)
class CachedPrompt:
    """The record of a returned cache, with which a second turn drops the same tokens.

    Parameters
    ----------
    ids : Tensor of int64, shape (B, full)
        The caller's prompt, -1 where it is not known (generated, and not given again).
    columns : Columns
        The columns that the cache holds.
    position_ids : Tensor, shape (..., B, L')
        Their positions.
    following : Tensor of int64, shape (B,)
        The position after the last one of the full prompt.
    whole : Tensor of bool, shape (B,)
        Rows that lost no token.
    log_weight : Tensor of float32, shape (B, L')
        The logarithm of how many tokens each column stands for.
    exponent : float
        What the logarithms are multiplied by in attention.
    """

    ids: Tensor
    columns: Columns
    position_ids: Tensor
    following: Tensor
    whole: Tensor
    log_weight: Tensor
    exponent: float

    @property
    def full(self) -> int:
        """Number of columns of the caller's prompt."""
        return self.ids.shape[1]

    def begins(self, ids: Tensor) -> bool:
        """Whether ``ids`` ``(B, L)`` are this prompt and more."""
        known = self.ids.to(ids.device)
        return bool(((ids[:, : self.full] == known) | (known < 0)).all())

    def cached_columns(self, cache_length: int) -> int:
        """Return how many columns of the caller's prompt are behind ``cache_length`` entries."""
        return self.full + cache_length - self.columns.index.shape[1]


def remember(cache: Cache, prompt: CachedPrompt) -> None:
    """Attach the record of its content to ``cache``; copies of the cache have it too."""
    setattr(cache, _NAME, prompt)


def recall(cache: Cache | None) -> CachedPrompt | None:
    """Return the record of a cache that a reduced call filled, else None."""
    prompt: CachedPrompt | None = getattr(cache, _NAME, None)
    if cache is None or prompt is None:
        return None
    if int(cache.get_seq_length()) == 0:  # it was reset
        delattr(cache, _NAME)
        return None
    return prompt


def pads_left(attention_mask: Tensor) -> bool:
    """Whether a batch is padded on the left (or not at all)."""
    return bool(attention_mask[:, -1].all())


def pad_id(config: Any, input_ids: Tensor, attention_mask: Tensor, visual: Tensor) -> int:
    """Return a token id for padded columns that is no placeholder."""
    padded = input_ids[(attention_mask == 0) & ~visual]
    if len(padded):
        return int(padded[0])
    text = getattr(config, "text_config", config)
    for source in (config, text):
        token = getattr(source, "pad_token_id", None)
        if isinstance(token, int) and token >= 0 and not bool((input_ids[visual] == token).any()):
            return token
    return int(input_ids[~visual][0]) if bool((~visual).any()) else 0


def compact(real: Tensor, like: Tensor) -> Tensor:
    """Return positions that count the real tokens of each row, shaped ``(..., B, L')`` like."""
    count = (real.long().cumsum(dim=1) - 1).clamp(min=0)
    return count.expand(*like.shape[:-2], *count.shape).clone()


def next_positions(position_ids: Tensor, real: Tensor) -> Tensor:
    """Return the position of the text that would follow each row, ``(B,)``.

    With M-RoPE that is after the largest row or column: the text axis counts tokens, and a clip's
    frames may be placed later than the text after it.
    """
    spatial = position_ids[-2:] if position_ids.ndim == 3 else position_ids
    spatial = spatial.reshape(-1, *real.shape).amax(dim=0)
    return spatial.masked_fill(~real, -1).amax(dim=1) + 1


def check_rows(prefix: CachedPrompt, rows: int) -> None:
    """Check that a cache has as many rows as the new prompt (not so after beams)."""
    cached = len(prefix.columns.index)
    if cached != rows:
        raise UnsupportedModelError(
            f"the cache holds {cached} rows of a reduced prompt, the prompt has {rows}; "
            "continue with the same rows, or start without the cache"
        )


def aligned_with_prompt(kwargs: Mapping[str, Any]) -> dict[str, tuple[Tensor, int]]:
    """Return the arguments that are aligned with the prompt, with their filling."""
    values = {name: kwargs.get(name) for name in ALIGNED}
    return {name: (v, ALIGNED[name]) for name, v in values.items() if isinstance(v, Tensor)}
