"""Queries and keys of a decoder layer, read in passing or by starting the layer once more."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import UnsupportedModelError
from ...evidence.attention import attention_modules, tapped
from ...methods.inside.base import Heads


@dataclass
class Capture:
    """What one attention layer worked with in its last call; `stop` ends the layer there.

    ``columns`` ``(B, S)`` are the columns of the conversation behind the keys.
    """

    stop: bool = False
    query: Tensor | None = None
    key: Tensor | None = None
    mask: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None
    columns: Tensor | None = None

    def read(
        self,
        query: Tensor,
        key: Tensor,
        mask: Tensor | None,
        scaling: float | None,
        softcap: float | None = None,
    ) -> None:
        """Keep references to ``query`` and ``key`` ``(B, heads, L, d)``; nothing is computed."""
        self.query, self.key, self.mask = query.detach(), key.detach(), mask
        self.scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        self.softcap = softcap
        if self.stop:
            raise _Read

    def of_row(self, row: int, queries: Tensor, keys: Tensor) -> Heads:
        """Return one row's heads, at those of its queries and keys that are no padding.

        Parameters
        ----------
        queries, keys : Tensor of bool, shapes (R,) and (S,)
            Which are real; keys that the kernel was given beyond ``S`` do not exist yet.
        """
        assert self.query is not None
        assert self.key is not None
        mask = None if self.mask is None else self.mask[min(row, len(self.mask) - 1), 0]
        q, k = queries.nonzero().squeeze(1), keys.nonzero().squeeze(1)
        if mask is not None:
            mask = mask.index_select(0, q).index_select(1, k)
        return Heads(_at(self.query[row], q), _at(self.key[row], k), self.scale, mask, self.softcap)


class _Read(Exception):
    """Ends a layer once its queries and keys are known."""


def start_layer(
    layer: nn.Module, states: Tensor, rest: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Capture:
    """Run a layer up to its attention, which caches keys and values where a cache is given.

    Raises
    ------
    UnsupportedModelError
        If the layer has no attention to read.
    """
    capture = Capture(stop=True)
    for attention in attention_modules(layer)[:1]:
        try:
            with tapped(attention, capture):
                layer.forward(states, *rest, **kwargs)
        except _Read:
            return capture
    raise UnsupportedModelError(
        f"{type(layer).__name__} has no attention over its tokens that could be read; choose a "
        "layer that has"
    )


@contextmanager
def muted(layer: nn.Module, names: Sequence[str]) -> Iterator[None]:
    """Let projections of a layer's attention, where it has them by name, give zeros for nothing."""
    with ExitStack() as stack:
        for attention in attention_modules(layer)[:1]:
            for name in names:
                module = getattr(attention, name, None)
                if isinstance(module, nn.Module) and hasattr(module, "out_features"):
                    stack.enter_context(_silenced(module))
        yield


@contextmanager
def _silenced(module: Any) -> Iterator[None]:
    before = module.__dict__.get("forward")
    module.forward = lambda x: x.new_zeros(*x.shape[:-1], module.out_features)
    try:
        yield
    finally:
        del module.forward
        if before is not None:
            module.forward = before


def _at(x: Tensor, index: Tensor) -> Tensor:
    """Return ``x`` ``(H, L, d)`` at the rows ``index``; a view where those are its first ones."""
    if len(index) == x.shape[1]:
        return x
    last = len(index) - 1
    if bool((index == torch.arange(len(index), device=index.device)).all()):
        return x[:, : last + 1]
    return x.index_select(1, index)
