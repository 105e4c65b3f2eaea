"""Block diffusion (DiffusionGemma): an encoder reads the prompt once, every denoising step uses it.

The model's ``generate`` derives positions from the columns of the ids, and passes one set of
arguments to both parts: the encoder (of the prompt, and of each finished block) and the decoder.
Positions and encoded images of a reduced prompt therefore reach these parts by hooks.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ....values.errors import ArgumentError, LftrError, UnsupportedModelError
from ....values.report import Report
from ..api import CallArguments, generation_setting, versions
from ..cache_record import cached_columns_of
from ..columns import CachedPrompt, recall
from ..hooks import ModelHooks
from ..layers.masks import layer_mask
from ..reduced_call import ReducedCall
from .prefill import PrefillHost


class DiffusionHooks(ModelHooks):
    """The hooks of a diffusion model, whose encoder and decoder take different arguments."""

    def _infer_mask(self, call: CallArguments) -> Tensor:
        """Return a mask of ones, since this ``generate`` does not infer padding."""
        return torch.ones_like(call.ids)

    @contextmanager
    def _arguments_of(self, reduced: ReducedCall) -> Iterator[CallArguments]:
        """Pass images and positions to the encoder, and correct the decoder's positions."""
        call, thread = reduced.call, threading.get_ident()
        shift = 0 if reduced.lag is None else int(reduced.lag)
        first = CallArguments()
        if call.encoded is not None:
            first = first.but(encoded=call.encoded)
        if call.positions is not None:
            first = first.but(positions=call.positions)
        begins, steps = [first], 0

        def encode(
            module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
        ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
            if threading.get_ident() != thread:
                return None
            arguments = CallArguments.of(module.forward, args, kwargs)
            if begins:
                return (), arguments | begins.pop()
            return (), arguments.but(positions=arguments.positions + shift)

        def denoise(
            module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
        ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
            nonlocal steps
            if threading.get_ident() != thread:
                return None
            steps += 1
            arguments = CallArguments.of(module.forward, args, kwargs)
            return (), arguments.but(canvas_positions=arguments.canvas_positions + shift)

        parts = self.model.base_model
        with ExitStack() as stack:
            hook = parts.encoder.register_forward_pre_hook(encode, with_kwargs=True)
            stack.callback(hook.remove)
            if shift:
                self._check_compiled(call)
                hook = parts.decoder.register_forward_pre_hook(denoise, with_kwargs=True)
                stack.callback(hook.remove)
            yield call.without(
                *map(CallArguments.name, ("positions", "encoded", "canvas_positions"))
            )
        if begins or (shift and not steps):
            part = "encoder" if begins else "decoder"
            raise LftrError(
                f"generate ran without lftr's hook on the {part}, which corrects positions; if the "
                "model was compiled (torch.compile), start the reduction before its first call; "
                f"{versions()}"
            )

    def _check_compiled(self, call: CallArguments) -> None:
        """Check that ``generate`` does not compile the model as one graph, which skips hooks."""
        kind = generation_setting(self.model, call, "cache_implementation")
        whole = generation_setting(self.model, call, "disable_compile")
        if kind is not None and "static" in kind and not whole:
            raise UnsupportedModelError(
                f"cache_implementation = {kind!r} compiles the model, and positions='original' "
                "needs hooks in it: use positions='compact' or disable_compile=True"
            )


class DiffusionHost(PrefillHost):
    """Reduces the prompt of a diffusion model, whose positions count columns, padding included."""

    model_hooks: ClassVar[type[ModelHooks]] = DiffusionHooks

    def concerns(self, call: CallArguments) -> bool:
        """Whether a call has images, begins a cache, or uses a cache that a reduced call filled."""
        if call.ids is None:
            return recall(call.cache) is not None
        return super().concerns(call)

    def reduce(self, call: CallArguments, report: Report) -> ReducedCall:
        """Return a call with the visual tokens reduced; fills ``report``."""
        prefix = recall(call.cache)
        past = call.past + _count_dropped(prefix)  # columns of the full conversation
        if not isinstance(call.ids, Tensor):
            return ReducedCall(self._place_canvas(call, prefix, past), starts=False)
        if prefix is not None and call.ids.shape[1] > past and prefix.begins(call.ids):
            raise ArgumentError.of(
                CallArguments.name("ids"),
                f"the whole conversation ({call.ids.shape[1]} columns) with its cache",
                f"the ids that are not in the cache, as {type(self.model).__name__} expects",
            )
        length = call.ids.shape[1]
        counted = torch.arange(past, past + length, device=call.ids.device).unsqueeze(0)
        reduced = super().reduce(call.but(positions=counted), report)
        out = self._place_canvas(reduced.call, reduced.prompt, past + length)
        if self.plan.positions == "compact":
            return replace(reduced, call=out.without(CallArguments.name("positions")), lag=None)
        behind = past + length - reduced.columns
        return replace(reduced, call=out, lag=torch.tensor([[behind]]) if behind else None)

    def hooks(self) -> list[Any]:
        """Attach to the decoder's layers if methods work inside the encoder's layers."""
        handles = super().hooks()
        if self.plan.inside:
            layers = enumerate(self.model.base_model.decoder.layers)
            handles += [
                layer.register_forward_pre_hook(_DenoisingLayer(i), with_kwargs=True)
                for i, layer in layers
            ]
        return handles

    def _place_canvas(
        self, call: CallArguments, prompt: CachedPrompt | None, end: int
    ) -> CallArguments:
        """Return a call whose canvas is placed after the full prompt and attends to kept columns.

        ``end`` is the number of columns of the full conversation.
        """
        mask = call.canvas_mask
        if prompt is not None and isinstance(mask, Tensor) and mask.ndim == 2:
            known = prompt.columns.take(mask[:, : prompt.full].long(), 0)
            call = call.but(canvas_mask=torch.cat([known, mask[:, prompt.full :].long()], dim=1))
        elif prompt is not None and mask is not None:
            raise ArgumentError.of(
                CallArguments.name("canvas_mask"), type(mask).__name__, "a mask of columns, (B, L)"
            )
        if self.plan.positions == "compact" or call.canvas_positions is not None:
            return call
        canvas = call.canvas
        count = self.model.config.canvas_length if canvas is None else canvas.shape[1]
        places = torch.arange(end, end + count, device=self.model.device).unsqueeze(0)
        return call.but(canvas_positions=places)


class _DenoisingLayer:
    """The hook of one decoder layer; it attends to the cache of the encoder layer of its number."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __call__(
        self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        call = CallArguments(kwargs)
        cache = call.cache
        cached = cached_columns_of(cache)
        if cache is None or cached is None:
            return None
        layer_cache = cache.layers[self.number]
        if layer_cache.is_compileable:
            raise UnsupportedModelError(
                "denoising cannot use a static cache whose layers hold different tokens; use "
                "a dynamic cache, or a method that decides before the language model"
            )
        states = args[0] if args else call.states
        rows, count = states.shape[:2]
        total = cached.length
        canvas = torch.arange(total, total + count, device=states.device).expand(rows, -1)
        keys = cached.columns(self.number, canvas)
        keys = keys[:, keys.shape[1] - layer_cache.keys.shape[-2] - count :]
        if layer_cache.is_sliding:  # without a reduction it holds its window only
            keys = keys.masked_fill(keys < total - (layer_cache.sliding_window - 1), -1)
        full = call.mask
        if full is None:
            full = torch.ones(1, 1, count, total + count, dtype=torch.bool, device=states.device)
        return args, call.but(mask=layer_mask(full, canvas, keys, total, flat=False))


def _count_dropped(prompt: CachedPrompt | None) -> int:
    return 0 if prompt is None else prompt.full - prompt.columns.index.shape[1]
