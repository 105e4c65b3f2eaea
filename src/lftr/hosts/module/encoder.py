"""Reading a vision encoder's attention without transformers, by hooks on its attention modules.

The queries and keys are computed from the module's input once more, with its own projections. So
that an encoder which computes attention in another way (rotary embeddings, biases of positions) is
not read wrongly, the module's output for the first token is computed from them too and compared
with the output that the module returned.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ...evidence.attention_recorder import AttentionRecorder, shallow_layer
from ...values.autocast import without_autocast
from ...values.errors import ArgumentError, UnsupportedModelError
from ...values.evidence import from_rows
from ...values.tokens import Grid
from .evidence import ModuleEvidence

_FULL, _HALF = 1e-3, 5e-2  # tolerances of the comparison, relative, by precision


class _ThreadRecorders(threading.local):
    """The recorders of the current thread, by the module that they record."""

    def __init__(self) -> None:
        self.by_module: dict[nn.Module, AttentionRecorder] = {}

    def __reduce__(self) -> tuple[type[_ThreadRecorders], tuple[()]]:
        """Let a copy of the reduction begin with no readings."""
        return type(self), ()


class EncoderReader:
    """Reads evidence off an encoder while it runs.

    Parameters
    ----------
    evidence : ModuleEvidence
        Names the encoder and its layer.
    wanted : set of str
        The fields of `lftr.VisualTokens` to read.

    Raises
    ------
    ArgumentError, UnsupportedModelError
        If the encoder has no such layer, or no attention module that can be read.
    """

    def __init__(self, evidence: ModuleEvidence, wanted: frozenset[str]) -> None:
        assert evidence.encoder is not None
        layers = [part for part in evidence.encoder.modules() if _is_readable(part)]
        if not layers:
            raise UnsupportedModelError(
                f"encoder = {type(evidence.encoder).__name__} has no attention module that can be "
                "read: one with num_heads, qkv or q_proj, k_proj and v_proj, and proj or out_proj"
            )
        if not -len(layers) <= evidence.layer < len(layers):
            allowed = f"{-len(layers)} to {len(layers) - 1}"
            raise ArgumentError.of("layer", evidence.layer, allowed)
        self._name = type(evidence.encoder).__name__
        self._cls = evidence.cls_token
        self._deep = layers[evidence.layer]
        self._early = layers[shallow_layer(len(layers))]
        self._wanted = wanted
        self._recorders = _ThreadRecorders()

    def attach(self, acts: Callable[[], bool]) -> list[RemovableHandle]:
        """Read while ``acts()`` is true, in every thread; returns the handles that end it."""
        self._acts = acts
        shallow = "attention_received_shallow" in self._wanted
        modules = {self._deep, self._early} if shallow else {self._deep}
        return [part.register_forward_hook(self._read, with_kwargs=True) for part in modules]

    def _read(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any
    ) -> None:
        if not self._acts():
            return
        states = next(one for one in (*args, *kwargs.values()) if isinstance(one, Tensor))
        received = {self._deep: "attention_received", self._early: "attention_received_shallow"}
        recorder = self._recorders.by_module.setdefault(
            module,
            AttentionRecorder(
                row=0,
                received=received[module] in self._wanted,
                keys="keys" in self._wanted,
                values="values" in self._wanted,
                value_row=0 if "cls_value_similarity" in self._wanted else None,
            ),
        )
        with torch.no_grad():
            query, key, value = _heads(module, states)
            scale = getattr(module, "scale", query.shape[-1] ** -0.5)
            with without_autocast(states):
                recorder.record(query, key, None, float(scale), value=value)
            _check(module, recorder.rows[-1], value, output)

    def forget(self) -> dict[nn.Module, AttentionRecorder]:
        """Let go of what was read in this thread, and return it."""
        recorders, self._recorders.by_module = self._recorders.by_module, {}
        return recorders

    def take(self, counts: Sequence[int], grid: Grid | None) -> list[dict[str, Tensor]]:
        """Return what was read for each row of tokens, and forget it.

        Parameters
        ----------
        counts : sequence of int
            The number of tokens of each row; the encoder ran for as many images before.
        grid : (T, H, W), optional
            How the tokens lie, where a token is made of several patches.
        """
        recorders = self.forget()
        deep, early = (
            recorders.get(self._deep, AttentionRecorder()),
            recorders.get(self._early, AttentionRecorder()),
        )
        readings = {
            "cls_attention": [part.mT for part in deep.rows],
            "attention_received": deep.receipts,
            "attention_received_shallow": early.receipts,
            "cls_value_similarity": deep.similarities,
            "keys": deep.seen_keys,
            "values": deep.seen_values,
        }
        fields = {
            name: [one for part in parts for one in part]
            for name, parts in readings.items()
            if name in self._wanted
        }
        rows: list[dict[str, Tensor]] = [{} for _ in counts]
        for name, images in fields.items():
            if len(images) < len(counts):
                raise UnsupportedModelError(
                    f"encoder = {self._name} ran for {len(images)} images before the module "
                    f"returned {len(counts)} rows of tokens: {name} is not known for each"
                )
            for row, count, values in zip(rows, counts, images[-len(counts) :], strict=True):
                values = values[1:] if self._cls else values
                per_token = _to_tokens(values.reshape(len(values), -1), count, grid)
                row[name] = from_rows(name, per_token)
        return rows


def _is_readable(module: nn.Module) -> bool:
    parts = {name for name, _ in module.named_children()}
    projects = "qkv" in parts or {"q_proj", "k_proj", "v_proj"} <= parts
    return projects and bool({"proj", "out_proj"} & parts) and hasattr(module, "num_heads")


def _heads(module: Any, states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the queries, keys and values ``(B, heads, N, d)`` of an attention module's input."""
    if hasattr(module, "qkv"):
        packed = module.qkv(states)
        bias = getattr(module, "q_bias", None)
        if bias is not None:  # EVA and BEiT hold them apart, and have none for keys
            biases = torch.cat((bias, torch.zeros_like(bias), module.v_bias))
            packed = packed + biases.to(packed.dtype)
        query, key, value = packed.chunk(3, dim=-1)
    else:
        query, key, value = module.q_proj(states), module.k_proj(states), module.v_proj(states)
    heads = int(module.num_heads)
    query = _normalised_heads(getattr(module, "q_norm", None), query, heads)
    key = _normalised_heads(getattr(module, "k_norm", None), key, heads)
    return query, key, _split(value, heads)


def _normalised_heads(
    norm: Callable[[Tensor], Tensor] | None, states: Tensor, heads: int
) -> Tensor:
    """Split ``(B, N, D)`` into heads, normalised before or after as the norm's width tells."""
    width = getattr(getattr(norm, "weight", None), "shape", (0,))[-1]
    if norm is not None and width == states.shape[-1]:
        states = norm(states)
        norm = None
    parts = _split(states, heads)
    return parts if norm is None else norm(parts)


def _split(states: Tensor, heads: int) -> Tensor:
    return states.reshape(*states.shape[:-1], heads, -1).transpose(1, 2)


def _check(module: Any, row: Tensor, value: Tensor, output: Any) -> None:
    """Raise an error if an attention module's output is not made of what was read.

    Parameters
    ----------
    module : nn.Module
        Has run.
    row : Tensor, shape (B, heads, N)
        The attention of its first token.
    value : Tensor, shape (B, heads, N, d)
        Its values.
    output : Tensor or tuple
        What it returned.
    """
    project = module.proj if hasattr(module, "proj") else module.out_proj
    mixed = (row.unsqueeze(2).to(value.dtype) @ value).transpose(1, 2).flatten(2)
    expected = project(mixed)
    first = (output[0] if isinstance(output, tuple) else output)[:, :1]
    half = {torch.float16, torch.bfloat16} & {value.dtype, first.dtype}
    limit = (_HALF if half else _FULL) * first.float().norm()
    if expected.shape != first.shape or (expected.float() - first.float()).norm() > limit:
        raise UnsupportedModelError(
            f"the attention of {type(module).__name__} cannot be read: its output is not what its "
            "queries, keys and values give by softmax alone (rotary embeddings, biases of "
            "positions, dropout in training?); choose a method that reads no attention"
        )


def _to_tokens(values: Tensor, count: int, grid: Grid | None) -> Tensor:
    """Average what was read for patches ``(P, c)`` over the patches of each token, ``(N, c)``."""
    patches = len(values)
    if patches == count:
        return values
    side = math.isqrt(patches)
    if grid is None or side * side != patches or side % grid[1] or side % grid[2] or grid[0] != 1:
        raise ArgumentError.of(
            "grid",
            grid,
            f"the rows and columns (1, H, W) of {count} tokens, each made of a block of the "
            f"encoder's {patches} patches; queries of a Q-Former, and the tokens of an image that "
            "was put together of several tiles, have no such blocks: choose a method that reads no "
            "attention",
        )
    high, wide = side // grid[1], side // grid[2]
    return values.reshape(grid[1], high, grid[2], wide, -1).mean(dim=(1, 3)).flatten(0, 1)
