"""Token merging inside the vision encoder: hooks on the tower's layers while it runs once.

A layer of CLIP or SigLIP is ``x += attention(norm1(x)); x += mlp(norm2(x))``. The merge stands
between the two: the input of ``norm2`` is merged, and at the layer's end the MLP's output is added
to the merged tokens; the layer's own sum, over unmerged tokens, is discarded.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ....evidence.attention_recorder import AttentionRecorder
from ....methods.base import ImageMethod, Method
from ....methods.encoder.merges import EncoderMerge, MergingLayer
from ....methods.operations.composing import after, identity
from ....values.autocast import without_autocast
from ....values.errors import ArgumentError, LftrError, UnsupportedModelError
from ....values.selection import Flow, Selection
from ....values.tokens import VisualTokens
from ..api import CallArguments, Model, attention_of
from ..checkpointing import run_once
from ..families import Family, Medium

RecorderOf = Callable[[nn.Module], AttentionRecorder]


@dataclass(frozen=True)
class Merged:
    """The merges in every image of a call.

    Attributes
    ----------
    total : int
        Tokens that each image would have had.
    selection : Selection
        A stack with one selection for each image.
    """

    total: int
    selection: Selection


def check_merge(model: Model, family: Family, merge: object, method: Method) -> EncoderMerge:
    """Return ``merge`` if it can run in this model's encoder, before ``method``.

    Raises
    ------
    ArgumentError
        If it is not an EncoderMerge, or ``method`` encodes the image itself.
    UnsupportedModelError
        If the model needs all tokens of the encoder's layers.
    """
    if not isinstance(merge, EncoderMerge):
        raise ArgumentError.of(
            "encoder", merge, "a lftr.EncoderMerge, such as lftr.EncoderToMe(r=16)"
        )
    if not family.merging_layers(model):
        able = [name for name, one in Family.registry.items() if _merges(one)]
        raise UnsupportedModelError(
            f"the images of {model.config.model_type} cannot lose tokens inside the encoder: their "
            "shape is needed after it (tiles, rotary positions, pooling or a fixed number of "
            f"tokens); encoder= is for {', '.join(sorted(able))} with a CLIP or SigLIP tower"
        )
    if isinstance(method, ImageMethod):
        raise ArgumentError.of(
            "method", str(method), "one that reduces tokens; this one encodes a smaller image"
        )
    tower: Any = family.module(model, family.tower)
    kernel = attention_of(tower.config)
    if merge.weighs_attention and kernel not in ("eager", "sdpa"):
        raise UnsupportedModelError(
            f"encoder = {merge}; attention of {kernel!r} takes no bias, which this merge adds: "
            "load the vision tower with attn_implementation='sdpa'"
        )
    return merge


def _merges(family: Family) -> bool:
    """Whether models of a family may merge inside the encoder, if it is CLIP's or SigLIP's."""
    return type(family).merging_layers is not Medium.merging_layers


class MergePass:
    """The merges of one pass of the encoder.

    Parameters
    ----------
    merge : EncoderMerge
        Decides which tokens merge.
    layers : sequence of nn.Module
        The encoder's layers up to the one whose output the model uses.
    place : int, optional
        Index of the class token; None if there is none.
    """

    def __init__(self, merge: EncoderMerge, layers: Sequence[nn.Module], place: int | None) -> None:
        self.merge = merge
        self.layers: Sequence[Any] = layers
        self.class_token = place is not None
        self.decisions: dict[int, Selection] = {}
        self._size: Tensor | None = None
        self._memory: dict[str, Any] = {}
        self._halves: dict[int, list[Tensor]] = {}  # merged tokens and the MLP's output, by layer
        self._total = 0
        self._thread = threading.get_ident()

    def attach(self, tower: nn.Module, stack: ExitStack, recorder_of: RecorderOf) -> None:
        """Attach to the tower until ``stack`` closes; attention is read through ``recorder_of``."""
        places = self.merge.places(len(self.layers))
        if places:
            stack.enter_context(run_once(self.layers[places.start :]))
        for place in places:
            self._attach(place, recorder_of(self.layers[place].self_attn), stack)
        if places and self.merge.weighs_attention:
            for layer in self.layers[places.start + 1 :]:
                handle = layer.self_attn.register_forward_pre_hook(self._weigh, with_kwargs=True)
                stack.callback(handle.remove)
        stack.callback(tower.register_forward_hook(self._even_out).remove)

    def _attach(self, place: int, recorder: AttentionRecorder, stack: ExitStack) -> None:
        layer = self.layers[place]
        recorder.keys = True
        if self.merge.reads_attention and self.class_token:
            recorder.row = 0
        recorder.received |= self.merge.reads_attention and (
            self.merge.reads_received or not self.class_token
        )
        recorder.values |= self.merge.reads_values
        if self.merge.reads_values and self.class_token:
            recorder.value_row = 0

        def before_mlp(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
            if threading.get_ident() != self._thread:
                return None
            merged = self._merge(place, recorder, args[0])
            self._halves[place] = [merged]
            return (merged, *args[1:])

        def after_mlp(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
            if threading.get_ident() != self._thread:
                return None
            self._halves[place].append(output)
            return output[:, :1]  # the layer adds it to its unmerged tokens, whatever their number

        def after_layer(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
            if threading.get_ident() != self._thread:
                return None
            merged, added = self._halves.pop(place)
            whole = merged + added
            return (whole, *output[1:]) if isinstance(output, tuple) else whole

        # before the hook by which transformers collects hidden states
        handles = [
            layer.layer_norm2.register_forward_pre_hook(before_mlp),
            layer.mlp.register_forward_hook(after_mlp),
            layer.register_forward_hook(after_layer, prepend=True),
        ]
        for handle in handles:
            stack.callback(handle.remove)

    def _merge(self, place: int, recorder: AttentionRecorder, states: Tensor) -> Tensor:
        batch, width, _ = states.shape
        fixed = int(self.class_token)
        if self._size is None:
            self._total = width - fixed
            self._size = torch.ones(batch, width, device=states.device)
        evidence: dict[str, Any] = {}
        if recorder.row is not None:
            evidence["cls_attention"] = recorder.rows[-1]
        if recorder.received:
            evidence["attention_received"] = recorder.receipts[-1]
        if recorder.values:
            evidence["values"] = recorder.seen_values[-1]
        if recorder.value_row is not None:
            evidence["cls_value_similarity"] = recorder.similarities[-1]
        tokens = VisualTokens(states.detach(), keys=recorder.seen_keys[-1], **evidence)
        depth = len(self.layers)
        with torch.no_grad(), without_autocast(states):
            layer = MergingLayer(
                tokens, self._size, self.class_token, place, depth, self._total, self._memory
            )
            self.merge.observe(layer)
            left = fixed + self.merge.left(layer)
            if left >= width:
                return states
            chosen = self.merge.merge(layer, width - left)
        self._check(chosen, (batch, left))
        self.decisions[place] = chosen
        flow = chosen.flow or identity(chosen.index)
        self._size = Flow(flow.source, flow.slot, flow.shares()).combine(self._size, left)
        return chosen.apply(states)

    def _check(self, chosen: object, shape: tuple[int, int]) -> None:
        """Check what a merge of another package returned."""
        returned = chosen.index.shape if isinstance(chosen, Selection) else type(chosen).__name__
        if returned != shape:
            result = tuple(returned) if isinstance(returned, torch.Size) else returned
            raise LftrError(
                f"{type(self.merge).__name__}.merge returned {result} where a lftr.Selection of "
                f"shape {shape} has to be returned"
            )
        assert isinstance(chosen, Selection)
        if self.class_token and bool(chosen.index[:, 0].any()):
            raise LftrError(
                f"{type(self.merge).__name__}.merge dropped the class token, which comes first"
            )

    def _weigh(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        # kwargs is None if another thread calls the hook while this one removes it
        if kwargs is None or threading.get_ident() != self._thread or not self.decisions:
            return None
        assert self._size is not None
        dtype = next(module.parameters()).dtype
        bias = self._size.log().to(dtype)[:, None, None, :]
        bias = bias.expand(-1, -1, bias.shape[-1], -1)
        return args, CallArguments(kwargs).but(mask=bias)

    def _even_out(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Apply later merges to the states of earlier layers, for models that use several."""
        name = CallArguments.name("states")
        states = getattr(output, name, None)
        if threading.get_ident() == self._thread and states is not None:
            carried = [
                None if one is None else self._apply_onward(one, i) for i, one in enumerate(states)
            ]
            setattr(output, name, tuple(carried))

    def _apply_onward(self, states: Tensor, layer: int) -> Tensor:
        onward = self.onward(layer)
        return states if onward is None else onward.apply(states)

    def onward(self, layer: int) -> Selection | None:
        """Return the merges of the tokens that entered ``layer``; None if there were none."""
        whole: Selection | None = None
        for place in sorted(self.decisions):
            if place >= layer:
                chosen = self.decisions[place]
                whole = chosen if whole is None else after(whole, chosen)
        return whole

    def merged(self, count: int) -> Merged | None:
        """Return the merges in images that have ``count`` tokens now; None if there were none."""
        whole = self.onward(0)
        if whole is None:
            return None
        if whole.count == count:  # the model goes on with the class token, or there is none
            return Merged(self._total + int(self.class_token), whole)
        flow = whole.flow or identity(whole.index)
        of_class = (flow.source == 0) | (flow.slot == 0)  # such entries have weight 0
        source, slot = ((part - 1).clamp_min(0) for part in (flow.source, flow.slot))
        parts = (part.masked_fill(of_class, 0.0) for part in (flow.weight, flow.shares()))
        flow = Flow(source, slot, *parts)
        weight = None if whole.slot_weight is None else whole.slot_weight[:, 1:]
        return Merged(self._total, Selection(whole.index[:, 1:] - 1, flow, whole.notes, weight))
