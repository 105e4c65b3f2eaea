"""Reduction inside the language model: later layers work on fewer columns and cache fewer.

Hooks on the decoder layers remove columns from the hidden states and from all arguments aligned
with them (positions, masks); each layer then caches only the columns that it receives. The model
makes its masks for the full prompt, and every layer receives its part of them, so that sliding
windows, bidirectional attention within images and padding stay as they are. After the last layer
the dropped columns are inserted again, with their states from when they were dropped, so that
logits and labels keep the prompt's shape.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ....evidence.attention import attention_modules, recording
from ....methods.inside import LayerMethod
from ....methods.inside.schedules import State
from ....values.errors import ArgumentError, UnsupportedModelError
from ....values.report import Report
from ...items import ReductionPlan, VisualItem
from ..api import HOOKS_RUN_ONCE, CallArguments, Model, attention_of
from ..cache_record import cached_columns_of
from ..call_state import CallState, PromptColumns
from ..checkpointing import run_once
from ..checks import check_unpacked
from ..families import Family
from .heads import Capture, chooses_keys
from .layer_pass import LayerPass
from .passages import Passages, follow, parts_of

_PASSIVE: dict[State, int] = {"active": 0, "frozen": 1, "bypassed": 2}


class LayerHost:
    """Reduces one model inside its decoder layers.

    Parameters
    ----------
    plan : ReductionPlan
        Of its methods inside, those that decide before the same layer do so in this order.

    Raises
    ------
    UnsupportedModelError, ArgumentError
        If the model cannot be hosted, or a schedule does not fit it.
    """

    def __init__(self, model: Model, family: Family, plan: ReductionPlan, report: Report) -> None:
        self.model = model
        self.family = family
        self.methods = plan.inside
        self.merges = any(method.merges for method in self.methods)
        self.unweighted = plan.unweighted
        self.report = report
        decoder: Any = family.decoder(model)
        self.layers: list[nn.Module] = list(decoder.layers)
        self.depth = len(self.layers)
        self.attends = [bool(attention_modules(layer)) for layer in self.layers]
        self.first = family.first_layer_to_reduce(model)
        implementation = attention_of(model.config.get_text_config())
        if implementation == "flex_attention":
            raise UnsupportedModelError(
                "attn_implementation = 'flex_attention'; tokens can be dropped inside the language "
                "model under 'sdpa', 'eager' and FlashAttention"
            )
        self.flat = "flash" in implementation
        self.slides = [_slides(layer) for layer in self.layers]
        self.states = [_most_passive(one) for one in zip(*self._planned_states(), strict=True)]
        self.untouched = self.depth  # so many first layers drop no token and let none rest
        self._check()
        self.state = CallState()  # until it is attached

    def _planned_states(self) -> list[list[State]]:
        return [method.schedule.states(self.depth) for method in self.methods]

    def _check(self) -> None:
        """Check that the model can be reduced by these methods, before any hook is attached."""
        for method in self.methods:
            method.check(self.model.config.get_text_config())
            resting = enumerate(method.schedule.states(self.depth))
            passive = {i for i, state in resting if state != "active"}
            early = sorted(passive.union(method.schedule.pruned(self.depth)))
            self.untouched = min([self.untouched, *early])
            if early and early[0] < self.first:
                raise ArgumentError.of(
                    str(method),
                    f"tokens change from layer {early[0]} on",
                    f"layers from {self.first} on: before them this "
                    f"{type(self.model).__name__} adds visual features to its tokens",
                )
            layers = sorted({*early, *method.watches(self.depth)})
            earlier = [i - 1 for i in layers]
            source = {
                "nothing": [],
                "previous": earlier,
                "unrotated": earlier,
                "own": layers,
                "own text": layers,
            }[method.reads]
            without = [i for i in source if i >= 0 and not self.attends[i]]
            if without:
                raise ArgumentError.of(
                    str(method),
                    f"reads the attention of layer {without[0]}",
                    "layers that have attention over their tokens: "
                    f"{[i for i in range(self.depth) if self.attends[i]]}",
                )
            sparse = [i for i in source if i >= 0 and chooses_keys(self.layers[i])]
            if sparse and method.reads == "unrotated":
                raise ArgumentError.of(
                    str(method),
                    f"reads the attention of layer {sparse[0]} without positions",
                    "layers that attend to all keys; this one chooses them by their positions "
                    "(sparse attention)",
                )
            followed = self._followed_layers(method)
            unlike = [i for i in followed if parts_of(self.layers[i]) is None]
            if unlike:
                raise ArgumentError.of(
                    str(method),
                    f"follows states through layer {unlike[0]}",
                    f"layers that have an attention and an MLP; {type(self.layers[0]).__name__} "
                    f"{unlike[0]} does not",
                )
            idle = [i for i in [*source, *followed] if i >= 0 and self.states[i] != "active"]
            if idle:
                what = "attention" if idle[0] in source else "states"
                raise ArgumentError.of(
                    str(method),
                    f"reads the {what} of layer {idle[0]}",
                    f"layers in which visual tokens are active; there they are "
                    f"{self.states[idle[0]]}",
                )
        if self.flat and "frozen" in self.states:
            raise UnsupportedModelError(
                "visual tokens cannot be frozen under FlashAttention, whose masks are padding "
                "alone; load the model with attn_implementation='sdpa'"
            )

    def hooks(self, state: CallState) -> Iterator[Any]:
        """Attach to the decoder layers; yields each handle."""
        self.state = state
        for number, layer in enumerate(self.layers):
            yield layer.register_forward_pre_hook(_Before(self, number), with_kwargs=True)
        yield self.layers[-1].register_forward_hook(self._after_last)
        for number in sorted({i for method in self.methods for i in self._followed_layers(method)}):
            for name, part in (parts_of(self.layers[number]) or {}).items():
                yield follow(part, functools.partial(self._keep_passage, number, name))

    def _followed_layers(self, method: LayerMethod) -> list[int]:
        """Return the layers whose passages a method uses; see `LayerMethod.follows`."""
        if not method.follows:
            return []
        acting = {*method.schedule.cuts(self.depth), *method.watches(self.depth)}
        return sorted(layer - 1 for layer in acting if layer)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _keep_passage(self, number: int, part: str, passages: Passages) -> None:
        current = self.state.layer_pass
        if current is not None:
            current.passed(number, part, passages)

    def norm(self, states: Tensor) -> Tensor:
        """Normalise states as the language model does after its last layer."""
        normalised: Tensor = self.family.final_norm(self.model)(states)
        return normalised

    def announce(self, call: CallArguments, items: Sequence[VisualItem]) -> None:
        """Note what the columns of the next forward are; see `PromptColumns`."""
        if isinstance(call.ids, Tensor):
            visual = self.family.visual(self.model, call.ids)
            self.state.columns = PromptColumns(
                visual, _unpadded_columns(call.mask, call.ids), items
            )
            if bool(visual.any()) and self._changes(int(visual.sum(dim=1).max())):
                check_unpacked(call)

    def _changes(self, tokens: int) -> bool:
        """Whether any layer drops visual tokens of a prompt, freezes or bypasses them."""
        plans = [method.schedule.counts(tokens, self.depth) for method in self.methods]
        return any(min(plan) < tokens for plan in plans) or set(self.states) != {"active"}

    def begin(
        self, inner: CallArguments, columns: PromptColumns | None, log_weight: Tensor | None
    ) -> LayerPass | None:
        """Return the pass of a forward of the language model that begins.

        Parameters
        ----------
        inner : CallArguments
            The arguments of the language model.
        columns, log_weight : optional
            See `CallState`.

        Returns
        -------
        LayerPass, optional
            None if the forward has no visual tokens, and no layer of its cache dropped some.
        """
        cached = None if inner.cache is None else cached_columns_of(inner.cache)
        shape = inner.columns
        assert shape is not None
        if columns is None or columns.visual.shape[1] != shape[1]:
            none = torch.zeros(shape, dtype=torch.bool, device=self.model.device)
            columns = PromptColumns(none, ~none)
        repeats = shape[0] // len(columns.visual)  # beams
        marks = columns.visual, columns.known
        visual, known = (x.repeat_interleave(repeats, dim=0) for x in marks)
        rows = [
            [item for item in columns.items if item.row == row // repeats]
            for row in range(len(visual))
        ]
        if cached is None and not bool(visual.any()):
            return None
        past = inner.past
        if cached is not None:
            cached.for_rows(shape[0])
        known = torch.nn.functional.pad(known, (past + shape[1] - known.shape[1], 0), value=True)
        generation = self.state.generation
        end = decisions = None
        if generation is not None and generation.reduced is not None:
            end = generation.reduced.columns - past
            decisions = generation.decisions if inner.cache is None else None
        logs = torch.zeros(known.shape, device=known.device)
        if log_weight is not None:
            repeated = log_weight.repeat_interleave(shape[0] // len(log_weight), dim=0)
            logs[:, : repeated.shape[1]] = repeated[:, : logs.shape[1]]
        layer_pass = LayerPass(self, visual, known, logs, rows, past, cached, end, decisions)
        once = self.layers  # older releases would run our hooks in the backward pass too
        if HOOKS_RUN_ONCE:
            frozen = [n for n, state in enumerate(self.states) if state == "frozen"]
            once = [self.layers[number] for number in frozen]
        self.state.stack.enter_context(run_once(once))
        for number in layer_pass.read_in_passing():
            for attention in attention_modules(self.layers[number])[:1]:
                capture = layer_pass.captures[number] = Capture()
                self.state.stack.enter_context(recording(attention, capture))
        return layer_pass

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _before(
        self, number: int, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        current = self.state.layer_pass
        return None if current is None else current.enter(number, layer, args, kwargs)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _after_last(self, layer: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        current = self.state.layer_pass
        if current is None:
            return None
        states = output[0] if isinstance(output, tuple) else output
        whole = current.leave(states, self.report)
        return (whole, *output[1:]) if isinstance(output, tuple) else whole


class _Before:
    """The hook in front of one layer, with the layer's number."""

    def __init__(self, host: LayerHost, number: int) -> None:
        self.host = host
        self.number = number

    def __call__(
        self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        return self.host._before(self.number, layer, args, kwargs)  # type: ignore[no-any-return]


def _slides(layer: nn.Module) -> bool:
    """Whether a layer attends in a sliding window."""
    parts = attention_modules(layer)
    return any(getattr(part, "sliding_window", None) is not None for part in parts)


def _most_passive(states: tuple[State, ...]) -> State:
    return max(states, key=_PASSIVE.__getitem__)


def _unpadded_columns(mask: Any, ids: Tensor) -> Tensor:
    """Return which columns are not padding: of ``ids`` and, if the mask has them, earlier ones."""
    if isinstance(mask, dict):
        mask = next((one for one in mask.values() if one is not None), None)
    if isinstance(mask, Tensor) and mask.ndim == 2 and mask.shape[1] >= ids.shape[1]:
        return mask.bool()
    if isinstance(mask, Tensor) and mask.ndim == 4 and mask.shape[2] == ids.shape[1] > 1:
        # a token that may not attend to itself is padding
        itself = mask[:, 0].diagonal(dim1=1, dim2=2)
        return (itself if itself.dtype == torch.bool else itself >= 0).expand(ids.shape)
    return torch.ones_like(ids, dtype=torch.bool)
