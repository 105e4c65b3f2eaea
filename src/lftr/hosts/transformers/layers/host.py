"""Reduction inside the language model: from layer to layer fewer rows, cached no more.

Hooks on the decoder layers take rows out of what flows and of what goes along with it (positions,
masks); each layer then caches what it was given. The model makes its masks for the full prompt,
and every layer gets its part of them, so that sliding windows, image blocks that see both ways and
padding stay what they are. After the last layer the rows are put back, those that were dropped as
they were then, so that logits and labels have the shape that they always have.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from ....evidence.attention import attention_modules, tapped
from ....methods.inside import LayerMethod
from ....methods.inside.schedules import State
from ....values.errors import ArgumentError, UnsupportedModelError
from ....values.report import Report
from ..api import HOOKS_RUN_ONCE, Call, Model, attention_of
from ..cache_record import held_by
from ..checkpointing import run_once
from ..checks import check_unpacked
from ..families import Family
from .heads import Capture
from .layer_decisions import Decisions
from .layer_pass import Descent

_PASSIVE: dict[State, int] = {"active": 0, "frozen": 1, "bypassed": 2}


class LayerHost:
    """Reduces one model inside its decoder layers.

    Parameters
    ----------
    methods : sequence of LayerMethod
        Decide one after the other where several meet before one layer.

    Raises
    ------
    UnsupportedModelError, ArgumentError
        If the model cannot be hosted, or a schedule does not fit it.
    """

    def __init__(
        self, model: Model, family: Family, methods: Sequence[LayerMethod], report: Report
    ) -> None:
        self.model = model
        self.family = family
        self.methods = tuple(methods)
        self.report = report
        decoder: Any = family.decoder(model)
        self.layers: list[nn.Module] = list(decoder.layers)
        self.depth = len(self.layers)
        self.attends = [bool(attention_modules(layer)) for layer in self.layers]
        self.norm = family.final_norm(model)
        self.first = family.first_layer_to_reduce(model)
        implementation = attention_of(model.config.get_text_config())
        if implementation == "flex_attention":
            raise UnsupportedModelError(
                "attn_implementation = 'flex_attention'; tokens can be dropped inside the language "
                "model under 'sdpa', 'eager' and FlashAttention"
            )
        self.flat = "flash" in implementation
        self.states = [_quietest(one) for one in zip(*self._planned_states(), strict=True)]
        self._check()
        self._call = _Call()

    def _planned_states(self) -> list[list[State]]:
        return [method.schedule.states(self.depth) for method in self.methods]

    def _check(self) -> None:
        """Refuse what could not be done, before anything is attached."""
        for method in self.methods:
            method.check(self.model.config.get_text_config())
            resting = enumerate(method.schedule.states(self.depth))
            quiet = {i for i, state in resting if state != "active"}
            early = sorted(quiet.union(method.schedule.pruned(self.depth)))
            if early and early[0] < self.first:
                raise ArgumentError.of(
                    str(method),
                    f"tokens change from layer {early[0]} on",
                    f"layers from {self.first} on: before them this "
                    f"{type(self.model).__name__} adds visual features to its tokens",
                )
            looks = sorted({*early, *method.watches(self.depth)})
            source = {"nothing": [], "previous": [i - 1 for i in looks], "own": looks}[method.reads]
            deaf = [i for i in source if i >= 0 and not self.attends[i]]
            if deaf:
                raise ArgumentError.of(
                    str(method),
                    f"reads the attention of layer {deaf[0]}",
                    "layers that have attention over their tokens: "
                    f"{[i for i in range(self.depth) if self.attends[i]]}",
                )
            passive = [i for i in source if i >= 0 and self.states[i] != "active"]
            if passive:
                raise ArgumentError.of(
                    str(method),
                    f"reads the attention of layer {passive[0]}",
                    f"layers in which visual tokens are active; there they are "
                    f"{self.states[passive[0]]}",
                )
        if self.flat and "frozen" in self.states:
            raise UnsupportedModelError(
                "visual tokens cannot be frozen under FlashAttention, whose masks are padding "
                "alone; load the model with attn_implementation='sdpa'"
            )

    def hooks(self) -> Iterator[Any]:
        """Attach to the language model and to each of its layers; yields each handle."""
        language_model = self.family.language_model(self.model)
        yield language_model.register_forward_pre_hook(self._begin, with_kwargs=True)
        yield language_model.register_forward_hook(self._end, always_call=True)
        for number, layer in enumerate(self.layers):
            yield layer.register_forward_pre_hook(_Before(self, number), with_kwargs=True)
        yield self.layers[-1].register_forward_hook(self._after_last)
        yield self

    def remove(self) -> None:
        """Let go of a call that was interrupted: removed like the hooks, and with them."""
        self._call.taps.close()
        self._call.now = None

    def start(self, prompt: int | None) -> None:
        """Begin a call of ``generate`` with a prompt of so many columns, or end one (None)."""
        self._call.prompt = prompt
        self._call.decisions = None if prompt is None else {}
        self._call.visual = None

    @property
    def acts(self) -> bool:
        """Whether this forward has visual tokens or goes on with a cache that lost some."""
        return self._call.now is not None

    @property
    def merges(self) -> bool:
        """Whether methods here may merge tokens, in this forward or an earlier one."""
        return self.acts and any(method.merges for method in self.methods)

    def columns_behind_keys(self, number: int) -> Tensor | None:
        """Return the conversation's columns behind a layer's keys in this forward.

        Returns
        -------
        Tensor of int64, shape (B, S), optional
            -1 for padding and free places of a static cache; None if no layer drops any column.
        """
        now = self._call.now
        return None if now is None else now.keys.get(number)

    def log_weight(self, number: int) -> Tensor | None:
        """Return the logarithms of how many tokens the conversation's columns stand for.

        Returns
        -------
        Tensor of float32, shape (B, past + L), optional
            As layer ``number`` has them; None where no method here changed them.
        """
        now = self._call.now
        return None if now is None else now.log_weight(number)

    def announce(self, call: Call, log_weight: Tensor | None = None) -> None:
        """Take note of the columns of the next forward: visual tokens, padding, and weights.

        ``log_weight`` is of the whole conversation, see `CachedPrompt`.
        """
        self._call.log_weight = log_weight
        if isinstance(call.ids, Tensor):
            visual = self.family.visual(self.model, call.ids)
            self._call.visual = visual, _known(call.mask, call.ids)
            if bool(visual.any()) and self._changes(int(visual.sum(dim=1).max())):
                check_unpacked(call)

    def _changes(self, tokens: int) -> bool:
        """Whether any layer drops visual tokens of a prompt, freezes or bypasses them."""
        plans = [method.schedule.counts(tokens, self.depth) for method in self.methods]
        return any(min(plan) < tokens for plan in plans) or set(self.states) != {"active"}

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        inner, call = Call.of(module.forward, args, kwargs), self._call
        announced, call.visual = call.visual, None
        log_weight, call.log_weight = call.log_weight, None
        held = None if inner.cache is None else held_by(inner.cache)
        shape = inner.columns
        assert shape is not None
        if announced is None or announced[0].shape[1] != shape[1]:
            none = torch.zeros(shape, dtype=torch.bool, device=self.model.device)
            announced = none, ~none
        call.taps.close()  # of a call that was interrupted
        repeats = shape[0] // len(announced[0])  # beams
        visual, known = (x.repeat_interleave(repeats, dim=0) for x in announced)
        call.now = None
        if held is None and not bool(visual.any()):
            return
        past = inner.past
        if held is not None:
            held.for_rows(shape[0])
        known = torch.nn.functional.pad(known, (past + shape[1] - known.shape[1], 0), value=True)
        decisions = call.decisions if inner.cache is None else None
        end = None if call.prompt is None else call.prompt - past
        logs = torch.zeros(known.shape, device=known.device)
        if log_weight is not None:
            repeated = log_weight.repeat_interleave(shape[0] // len(log_weight), dim=0)
            logs[:, : repeated.shape[1]] = repeated[:, : logs.shape[1]]
        call.now = Descent(self, visual, known, logs, past, held, end, decisions)
        once = self.layers  # older releases would run our hooks in the backward pass too
        if HOOKS_RUN_ONCE:
            frozen = [n for n, state in enumerate(self.states) if state == "frozen"]
            once = [self.layers[number] for number in frozen]
        call.taps.enter_context(run_once(once))
        for number in call.now.read_in_passing():
            for attention in attention_modules(self.layers[number])[:1]:
                capture = call.now.captures[number] = Capture()
                call.taps.enter_context(tapped(attention, capture))

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _end(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self._call.taps.close()
        now, self._call.now = self._call.now, None
        if now is not None and output is not None:  # None: the language model raised
            now.check_end()

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _before(
        self, number: int, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        now = self._call.now
        return None if now is None else now.enter(number, layer, args, kwargs)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _after_last(self, layer: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        now = self._call.now
        if now is None:
            return None
        states = output[0] if isinstance(output, tuple) else output
        whole = now.leave(states, self.report)
        return (whole, *output[1:]) if isinstance(output, tuple) else whole


class _Call(threading.local):
    """What is known of the call that a thread is in.

    Attributes
    ----------
    visual : pair of Tensor, optional
        Which columns of the next forward are visual tokens, and which are no padding.
    log_weight : Tensor, optional
        The logarithms of how many tokens the conversation's columns stand for.
    now : Descent, optional
        The forward that is under way.
    taps : ExitStack
        Closed with it.
    prompt : int, optional
        Columns of the prompt that ``generate`` was called with.
    decisions : dict, optional
        What was decided in that call.
    """

    def __init__(self) -> None:
        self.visual: tuple[Tensor, Tensor] | None = None
        self.log_weight: Tensor | None = None
        self.now: Descent | None = None
        self.taps = ExitStack()
        self.prompt: int | None = None
        self.decisions: Decisions | None = None


class _Before:
    """The hook of one layer: knows its number."""

    def __init__(self, host: LayerHost, number: int) -> None:
        self.host = host
        self.number = number

    def __call__(
        self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        return self.host._before(self.number, layer, args, kwargs)  # type: ignore[no-any-return]


def _quietest(states: tuple[State, ...]) -> State:
    return max(states, key=_PASSIVE.__getitem__)


def _known(mask: Any, ids: Tensor) -> Tensor:
    """Return which columns are no padding, of the call ``ids`` and, where it is told, before it."""
    if isinstance(mask, dict):
        mask = next((one for one in mask.values() if one is not None), None)
    if isinstance(mask, Tensor) and mask.ndim == 2 and mask.shape[1] >= ids.shape[1]:
        return mask.bool()
    if isinstance(mask, Tensor) and mask.ndim == 4 and mask.shape[2] == ids.shape[1] > 1:
        # a token that may not look at itself is padding
        own = mask[:, 0].diagonal(dim1=1, dim2=2)
        return (own if own.dtype == torch.bool else own >= 0).expand(ids.shape)
    return torch.ones_like(ids, dtype=torch.bool)
