"""Evidence, read from vLLM's vision encoder while it runs.

Encoder attention is fused and keeps no map. But its queries and keys pass through one module for
each layer, and the requested row or sum is computed from them, as on transformers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from vllm.distributed import tensor_model_parallel_all_gather, tensor_model_parallel_all_reduce

from ....evidence.attention_recorder import AttentionRecorder


@dataclass(frozen=True)
class Encoder:
    """The modules of an encoder that are read.

    Parameters
    ----------
    attention, shallow : nn.Module
        The modules that receive queries, keys and values, in the layer that makes the features and
        in the middle layer.
    layer : nn.Module
        The layer that makes the features.
    projector : nn.Module
        The module that receives the encoder's features.
    cls_place : int, optional
        Index of the CLS token; None if there is none.
    shards : int
        Number of devices among which the heads are divided.
    """

    attention: nn.Module
    shallow: nn.Module
    layer: nn.Module
    projector: nn.Module
    cls_place: int | None
    shards: int


class EvidenceReader:
    """Reads the evidence of one pass of the encoder.

    An error while the encoder runs is kept, and raised by `patches`: the encoder goes on, since
    other requests wait for what it makes.

    Parameters
    ----------
    encoder : Encoder
        The modules to read.
    wanted : set of str
        Fields of `lftr.VisualTokens`.
    packed : sequence of int, optional
        Lengths of the images' parts, if the encoder packs all images into one sequence.
    """

    def __init__(
        self, encoder: Encoder, wanted: frozenset[str], packed: Sequence[int] | None
    ) -> None:
        self.encoder = encoder
        self.wanted = wanted
        self.packed = packed
        self.deep = AttentionRecorder(
            row=encoder.cls_place if "cls_attention" in wanted else None,
            received="attention_received" in wanted,
            keys="keys" in wanted,
            values="values" in wanted,
            value_row=encoder.cls_place if "cls_value_similarity" in wanted else None,
        )
        self.shallow = AttentionRecorder(received="attention_received_shallow" in wanted)
        self.projected: list[Tensor] = []
        self.states: list[Tensor] = []
        self.failure: Exception | None = None
        self.spent = 0.0  # seconds; on a GPU only the time to launch kernels

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Read while the body runs the encoder."""
        encoder, wanted = self.encoder, self.wanted
        with ExitStack() as stack:

            def attach(handle: Any) -> None:
                stack.callback(handle.remove)

            for module, tap in ((encoder.attention, self.deep), (encoder.shallow, self.shallow)):
                if tap.reads:
                    hook = self._guarded(partial(self._tap, tap))
                    attach(module.register_forward_pre_hook(hook, with_kwargs=True))
            if "encoder_features" in wanted:
                hook = self._guarded(lambda _, args: self.projected.append(args[0]))
                attach(encoder.projector.register_forward_pre_hook(hook))
            if "frame_features" in wanted:
                hook = self._guarded(lambda _, args, output: self.states.append(output))
                attach(encoder.layer.register_forward_hook(hook))
            yield

    @property
    def frames(self) -> Tensor:
        """The CLS outputs ``(tiles, D)``."""
        return self.states[0][:, self.encoder.cls_place]

    @property
    def projector_input(self) -> Tensor:
        """What the projector received, ``(tiles, P, c)``, or ``(1, P, c)`` if it is packed."""
        seen = torch.cat(self.projected)
        return seen if self.packed is None else seen.flatten(0, 1)[None]

    def patches(self) -> dict[str, Tensor]:
        """Return attention, keys and values ``(tiles, P, c)``; a packed sequence is one tile.

        Raises
        ------
        Exception
            The first one of what was read while the encoder ran.
        """
        if self.failure is not None:
            raise self.failure
        fields: dict[str, Tensor] = {}
        if self.deep.rows:
            rows = self._all_heads(torch.cat(self.deep.rows))
            fields["cls_attention"] = self._without_cls(rows.mT)
        for name, parts in (
            ("attention_received", self.deep.receipts),
            ("attention_received_shallow", self.shallow.receipts),
            ("cls_value_similarity", self.deep.similarities),
            ("keys", self.deep.seen_keys),
            ("values", self.deep.seen_values),
        ):
            if parts:
                joined = self._joined(parts)
                joined = joined if joined.ndim == 3 else joined.unsqueeze(-1)
                fields[name] = self._without_cls(self._mean(joined))
        return fields

    def _guarded(self, read: Callable[..., None]) -> Callable[..., None]:
        """Return a hook that reads, and keeps an error instead of raising it."""

        def hook(*seen: Any) -> None:
            start = time.perf_counter()
            try:
                read(*seen)
            except Exception as error:
                self.failure = self.failure or error
            self.spent += time.perf_counter() - start

        return hook

    def _tap(
        self, tap: AttentionRecorder, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        names = ("query", "key", "value")
        arguments = dict(zip(names, args, strict=False)) | kwargs
        heads = [
            one.reshape(*one.shape[:2], -1, module.head_size).transpose(1, 2)
            for one in (arguments[name] for name in names)
        ]
        assert heads[0].shape[1] == module.num_heads
        bounds = [heads[0].shape[2]] if self.packed is None else list(self.packed)
        for q, k, v in zip(*(one.split(bounds, dim=2) for one in heads), strict=True):
            tap.record(q, k, None, module.scale, value=v)

    def _joined(self, parts: list[Tensor]) -> Tensor:
        return torch.cat(parts, dim=0 if self.packed is None else 1)

    def _all_heads(self, rows: Tensor) -> Tensor:
        """Gather ``(tiles, heads, N)`` of all devices' heads."""
        if self.encoder.shards == 1:
            return rows
        return tensor_model_parallel_all_gather(rows, dim=1)  # type: ignore[no-any-return]

    def _mean(self, values: Tensor) -> Tensor:
        """Return the mean over devices of means over each device's heads."""
        if self.encoder.shards == 1:
            return values
        return tensor_model_parallel_all_reduce(values) / self.encoder.shards  # type: ignore[no-any-return]

    def _without_cls(self, values: Tensor) -> Tensor:
        """Return ``(tiles, N, c)`` without the CLS token, which is the first."""
        return values if self.encoder.cls_place is None else values[:, 1:]
