"""Queries and keys of a decoder layer, read while it runs or by starting the layer beforehand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ....evidence.attention import attention_modules, attention_not_recorded, recording
from ....methods.inside.base import Heads
from ....values.errors import UnsupportedModelError
from .masks import rows_of


@dataclass
class Capture:
    """Queries, keys and values of an attention layer's last call; ``stop`` ends the layer there.

    ``columns`` ``(B, S)`` are the columns of the conversation behind the keys.
    """

    stop: bool = False
    query: Tensor | None = None
    key: Tensor | None = None
    value: Tensor | None = None
    mask: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None
    columns: Tensor | None = None

    def record(
        self,
        query: Tensor,
        key: Tensor,
        mask: Tensor | None,
        scaling: float | None,
        softcap: float | None = None,
        value: Tensor | None = None,
    ) -> None:
        """Keep references to tensors ``(B, heads, L, d)``; nothing is computed."""
        self.query, self.key, self.mask = query.detach(), key.detach(), mask
        self.value = None if value is None else value.detach()
        self.scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        self.softcap = softcap
        if self.stop:
            raise Stopped

    def of_row(self, row: int, queries: Tensor, keys: Tensor) -> Heads:
        """Return one row's queries, keys and values without padding.

        Parameters
        ----------
        queries, keys : Tensor of bool, shapes (R,) and (S,)
            Which are not padding. A kernel's keys beyond ``S`` are free places of a static cache.
        """
        assert self.query is not None
        assert self.key is not None
        mask = None if self.mask is None else self.mask[min(row, len(self.mask) - 1), 0]
        q, k = queries.nonzero().squeeze(1), keys.nonzero().squeeze(1)
        if mask is not None:
            mask = mask.index_select(0, q).index_select(1, k)
        return Heads(
            _take_rows(self.query[row], q),
            _take_rows(self.key[row], k),
            self.scale,
            mask,
            self.softcap,
            values=None if self.value is None else _take_rows(self.value[row], k),
        )


class Stopped(Exception):
    """Ends a layer once its queries and keys are known."""


def start_layer(
    layer: nn.Module,
    states: Tensor,
    rest: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    needed: Tensor | None = None,
) -> Capture:
    """Run a layer up to its attention, which fills the cache if the call has one.

    Parameters
    ----------
    needed : Tensor of int64, shape (B, R), optional
        The only rows whose queries and values are needed. If the layer has separate projections
        for them, the results of other rows are zeros and are not computed.

    Raises
    ------
    UnsupportedModelError
        If the layer has no attention, or queries and keys cannot be read from it.
    """
    attention = next(iter(attention_modules(layer)), None)
    if attention is None:
        raise UnsupportedModelError(
            f"{type(layer).__name__} has no attention over tokens that lftr can read; choose "
            "another layer"
        )
    capture = Capture(stop=True)
    copied = layer, attention
    if needed is not None:
        copied = _copy_for_rows(layer, attention, needed)
    try:
        # a forward set on the instance (by accelerate, or compiled) would run the original layer
        with recording(attention, capture), recording(copied[1], capture):
            copied[0].forward(states, *rest, **kwargs)
    except Stopped:
        return capture
    raise attention_not_recorded(attention)


def no_rotation(rotary: Any) -> Any:
    """Return rotary embeddings like ``rotary`` that leave queries and keys as they are.

    Raises
    ------
    UnsupportedModelError
        If the model passes its layers no rotary embeddings in a form that is known.
    """
    if isinstance(rotary, Tensor) and rotary.is_complex():
        return torch.ones_like(rotary)
    if isinstance(rotary, (tuple, list)) and len(rotary) == 2:
        cosines, sines = rotary
        return torch.ones_like(cosines), torch.zeros_like(sines)
    raise UnsupportedModelError(
        "this model's layers are not passed the cosines and sines of rotary position embeddings, "
        "so attention without them cannot be read; use a method that reads attention with positions"
    )


def chooses_keys(layer: nn.Module) -> bool:
    """Whether a layer has an indexer, which selects the keys that the layer attends to."""
    return any(getattr(one, "indexer", None) is not None for one in attention_modules(layer)[:1])


def _copy_for_rows(
    layer: nn.Module, attention: nn.Module, rows: Tensor
) -> tuple[nn.Module, nn.Module]:
    """Copy a layer and its attention with query and value projections that compute ``rows`` alone.

    The copies share every parameter, buffer and hook. The layer itself is not changed, so other
    threads may run it meanwhile.
    """
    projections = {name: attention._modules.get(name) for name in ("q_proj", "v_proj")}
    changed = {name: _Rows(one, rows) for name, one in projections.items() if one is not None}
    copied = _copy(attention, changed)
    return with_part(layer, attention, copied), copied


def with_part(layer: nn.Module, part: nn.Module, other: nn.Module) -> nn.Module:
    """Return a copy of a layer that has ``other`` in place of ``part``; it shares everything else.

    A forward set on the instance would run the original layer: call the class's.
    """
    path = next(name for name, one in layer.named_modules() if one is part).split(".")
    for depth in reversed(range(len(path))):
        other = _copy(layer.get_submodule(".".join(path[:depth])), {path[depth]: other})
    return other


def _copy(module: nn.Module, parts: Mapping[str, nn.Module]) -> nn.Module:
    """Return a copy of a module with other submodules; it shares everything else."""
    copied: nn.Module = object.__new__(type(module))
    copied.__dict__ = {**module.__dict__, "_modules": {**module._modules, **parts}}
    return copied


class _Rows(nn.Module):
    """A linear layer that computes only rows ``(B, R)`` of its input; other outputs are zero."""

    def __init__(self, projection: nn.Module, rows: Tensor) -> None:
        super().__init__()
        self.projection = projection
        self.rows = rows

    def forward(self, x: Tensor) -> Tensor:
        some: Tensor = self.projection(rows_of(x, self.rows))
        place = self.rows.to(some.device).unsqueeze(-1).expand_as(some)
        return some.new_zeros(*x.shape[:-1], some.shape[-1]).scatter(1, place, some)


def _take_rows(x: Tensor, index: Tensor) -> Tensor:
    """Return ``x`` ``(H, L, d)`` at the rows ``index``; a view where those are its first ones."""
    if len(index) == x.shape[1]:
        return x
    last = len(index) - 1
    if bool((index == torch.arange(len(index), device=index.device)).all()):
        return x[:, : last + 1]
    return x.index_select(1, index)
