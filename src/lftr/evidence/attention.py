"""A tap on attention layers: one row, or what each key receives; never a full map.

Every attention layer of transformers looks its kernel up by ``ALL_ATTENTION_FUNCTIONS``'
``get_interface``. While a tap is open, what the tapping thread is given there passes everything
through and, for tapped modules, reads the exact queries and keys (after rotary embeddings and
normalisation, whatever the kernel). When the last tap closes the table is as it was.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ..exact import exactly

_CHUNK = 128  # queries scored at once when the attention received is summed up


class Reader(Protocol):
    """What is shown the post-rotary queries and keys ``(B, heads, N, d)`` of each call."""

    def read(
        self,
        query: Tensor,
        key: Tensor,
        mask: Tensor | None,
        scaling: float | None,
        softcap: float | None = None,
    ) -> None:
        """Take what is wanted; ``mask`` is the kernel's, where that has four dimensions."""


@dataclass
class Tap:
    """What is read off one attention module, one entry for each of its calls.

    Parameters
    ----------
    row : int, optional
        The query whose attention to all keys is read (the CLS token's place).
    received : bool
        Whether the attention that each key receives is read.
    keys : bool
        Whether the keys themselves are read.

    Attributes
    ----------
    rows : list of Tensor, shape (B, heads, N)
        Attention of the query ``row``, float32.
    receipts : list of Tensor, shape (B, N)
        Attention received, mean over heads and over valid queries, float32.
    seen_keys : list of Tensor, shape (B, N, head_dim)
        Keys, mean over heads.
    """

    row: int | None = None
    received: bool = False
    keys: bool = False
    rows: list[Tensor] = field(default_factory=list)
    receipts: list[Tensor] = field(default_factory=list)
    seen_keys: list[Tensor] = field(default_factory=list)

    def read(
        self,
        query: Tensor,
        key: Tensor,
        mask: Tensor | None,
        scaling: float | None,
        softcap: float | None = None,
    ) -> None:
        """Take what was asked for from post-rotary ``query`` and ``key`` ``(B, heads, N, d)``."""
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
        if self.row is not None:
            at = self.row % query.shape[2]
            self.rows.append(_attend(query, key, mask, scale, at, at + 1).squeeze(2))
        if self.received:
            self.receipts.append(_receive(query, key, mask, scale))
        if self.keys:
            self.seen_keys.append(key.float().mean(dim=1))


def _attend(
    query: Tensor, key: Tensor, mask: Tensor | None, scale: float, start: int, stop: int
) -> Tensor:
    """Softmax-ed attention of queries ``start:stop``, float32 ``(B, heads, stop - start, N)``."""
    scores = (query[:, :, start:stop].float() @ key.float().transpose(2, 3)) * scale
    if mask is not None:
        part = mask[..., start:stop, : key.shape[2]]
        if part.dtype == torch.bool:
            scores = scores.masked_fill(~part, torch.finfo(torch.float32).min)
        else:
            scores = scores + part
    return scores.softmax(dim=-1)


def _receive(query: Tensor, key: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """Mean over heads and queries of the attention to each key; padded queries do not count."""
    count = query.shape[2]
    valid = torch.ones(query.shape[0], count, device=query.device)
    if mask is not None:  # a token that may not look at itself is padding
        own = mask.diagonal(dim1=-2, dim2=-1)
        own = own if own.dtype == torch.bool else own >= 0
        valid = own[:, 0].expand(len(valid), count).float()
    total = torch.zeros(query.shape[0], key.shape[2], device=query.device)
    for start in range(0, count, _CHUNK):
        stop = min(start + _CHUNK, count)
        part = _attend(query, key, mask, scale, start, stop).mean(dim=1)
        total += (part * valid[:, start:stop, None]).sum(dim=1)
    return total / valid.sum(dim=1, keepdim=True).clamp(min=1)


AnyReader = TypeVar("AnyReader", bound=Reader)
_open: ContextVar[dict[int, Reader] | None] = ContextVar("lftr_taps", default=None)
_lock = threading.Lock()
_users = 0
_before: list[Any] = []


@contextmanager
def tapped(module: nn.Module, tap: AnyReader) -> Iterator[AnyReader]:
    """Show ``module``'s attention to ``tap`` while the body runs, in this thread."""
    _install()
    token = _open.set({**(_open.get() or {}), id(module): tap})
    try:
        yield tap
    finally:
        _open.reset(token)
        _uninstall()


def _install() -> None:
    global _users
    with _lock:
        _users += 1
        if _users == 1:
            table = vars(ALL_ATTENTION_FUNCTIONS)
            _before.append(table.get("get_interface"))
            table["get_interface"] = _wrapping(ALL_ATTENTION_FUNCTIONS.get_interface)


def _uninstall() -> None:
    global _users
    with _lock:
        _users -= 1
        if _users == 0:
            table, before = vars(ALL_ATTENTION_FUNCTIONS), _before.pop()
            del table["get_interface"]
            if before is not None:
                table["get_interface"] = before


def _wrapping(get_interface: Callable[..., Any]) -> Callable[..., Any]:
    def look_up(name: str, default: Callable[..., Any]) -> Callable[..., Any]:
        function = get_interface(name, default)
        return _passing_on(function) if _open.get() else function

    return look_up


def _passing_on(function: Callable[..., Any]) -> Callable[..., Any]:
    def attend(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Any = None,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        tap = (_open.get() or {}).get(id(module))
        if tap is not None:
            _show(tap, query, key, attention_mask, kwargs)
        return function(module, query, key, value, attention_mask, *args, **kwargs)

    return attend


def _show(tap: Reader, query: Tensor, key: Tensor, mask: Any, kwargs: Mapping[str, Any]) -> None:
    """Let a reader see what a kernel is given.

    Nothing that it computes is saved for a backward pass: where layers are checkpointed, they run
    again without a reader, and would save less.
    """
    scaling, bounds = kwargs.get("scaling"), kwargs.get("cu_seq_lens_q")
    with torch.no_grad(), exactly(query):
        if bounds is None:
            seen = mask if isinstance(mask, Tensor) and mask.ndim == 4 else None
            tap.read(query, key, seen, scaling, kwargs.get("softcap"))
        else:  # flash attention packs all images into one call
            for start, stop in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
                tap.read(query[:, :, start:stop], key[:, :, start:stop], None, scaling)


def attention_modules(tower: nn.Module) -> list[nn.Module]:
    """Return the self-attention module of each layer of an encoder, in order."""
    found: list[nn.Module] = []
    for module in tower.modules():
        own = type(module).__module__.startswith("torch.")
        if type(module).__name__.endswith("Attention") and not own and hasattr(module, "config"):
            found.append(module)
    return found
