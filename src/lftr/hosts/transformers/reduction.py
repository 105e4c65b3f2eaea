"""A reduction of a model: attached, nested in others, and detached without a trace."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from ...values.errors import ArgumentError, UnsupportedModelError
from ...values.report import Report
from ..attached import Attached
from ..items import ReductionPlan
from ..module.reduction import ModuleReduction, module_reductions
from .api import CallArguments
from .cache_record import cached_columns_of
from .call_state import CallState
from .checks import check_types
from .families import Family
from .hooks import ModelHooks, hooks_of
from .kinds.base import Host
from .kinds.cross_attention import CrossAttentionHost
from .kinds.diffusion import DiffusionHost
from .kinds.prefill import PrefillHost
from .kinds.qformer import QFormerHost
from .layers.decoding import DecodingHost
from .layers.host import LayerHost
from .layers.slot_weights import SlotWeights, with_weights
from .reduced_call import ReducedCall

HOSTS: dict[str, type[Host]] = {
    "prefill": PrefillHost,
    "diffusion": DiffusionHost,
    "qformer": QFormerHost,
    "cross_attention": CrossAttentionHost,
}


class _ColumnCounts(threading.local):
    """Columns of a thread's last reduced prompt: those sent, and those received by the decoder."""

    sent = 0
    received = 0


class Reduction(Attached):
    """A reduction of a model, active at once; `remove` or the end of a ``with`` block ends it.

    Attributes
    ----------
    report : Report
        What the last reduced call did.
    """

    def __init__(self, model: Any, family: Family, plan: ReductionPlan) -> None:
        self.report = Report()
        self.columns = _ColumnCounts()
        plan = with_weights(model, family, plan)
        self.inside = LayerHost(model, family, plan, self.report) if plan.inside else None
        self.host: Host = HOSTS[family.kind](model, family, plan)
        self.weights = SlotWeights(model, family, plan.weights) if plan.weights else None
        self.decoding = (
            DecodingHost(model, family, plan.decoding, self.inside) if plan.decoding else None
        )
        self._model, self._family = model, family
        self._hooks: ModelHooks | None = None
        self._begin()

    @property
    def on(self) -> bool:
        """Whether the reduction is attached to its model."""
        return self._hooks is not None

    def _attach(self) -> None:
        self._hooks = self.host.model_hooks.push(self._model, self._family, self)

    def _detach(self) -> None:
        assert self._hooks is not None
        self._hooks.pull(self)
        self._hooks = None

    def prepare(self, **inputs: Any) -> dict[str, Any]:
        """Return the reduced arguments for a call of the model, for the caller's own decoding loop.

        Raises
        ------
        UnsupportedModelError
            If the reduction is off, since its hooks in the model are then missing. Or if slots have
            weights, which no argument of a model can pass on, or logits are corrected.
        """
        if not self.on:
            raise UnsupportedModelError(f"{self} is off; use it in a with block to attach it again")
        if self.decoding is not None:
            raise UnsupportedModelError(
                f"{self} corrects logits in generate alone: call that, or leave decoding out"
            )
        try:
            with torch.no_grad():
                reduced = self.reduce(CallArguments(inputs))
            prompt = reduced.prompt
            if self.weights is not None and prompt is not None and bool(prompt.log_weight.any()):
                raise UnsupportedModelError(
                    f"{self} merges tokens, and prepared inputs cannot pass on how many each slot "
                    "stands for: reduce with weights='none', or call the model with the full inputs"
                )
            return reduced.call
        finally:
            self.host.end()

    def reduce(self, call: CallArguments) -> ReducedCall:
        """Return a call with the visual tokens reduced, and start a new report."""
        check_types(call)
        if self._hooks is not None:
            self._warn_of_replaced(self._hooks.stack)
        cache, past = call.cache, call.past
        if cache is not None and self.inside is None and cached_columns_of(cache) is not None:
            raise UnsupportedModelError(
                "the cache was filled by methods inside the language model, and its layers "
                "hold different tokens; continue with the same methods, or without the cache"
            )
        reduced = self.host.reduce(call, self.report)
        if reduced.starts:
            self.report.received = self.columns.received = 0
            self.columns.sent = reduced.columns - past
        return reduced

    def count(self, columns: int) -> None:
        """Count the columns that the language model receives, up to those sent."""
        if self.columns.received < self.columns.sent:
            self.columns.received += columns  # in several pieces where prefill is chunked
            self.report.received = self.columns.received

    def hooks(self, state: CallState) -> Iterator[Any]:
        """Attach what this reduction needs beside `ModelHooks`; yields each handle."""
        yield from self.host.hooks()
        if self.inside is not None:
            yield from self.inside.hooks(state)
        if self.decoding is not None:
            yield from self.decoding.hooks(state)

    def __repr__(self) -> str:
        plan = self.host.plan
        state = "on" if self.on else "off"
        return f"<lftr.Reduction {plan} {state}>"


def attached_to(model: object) -> list[Reduction | ModuleReduction]:
    """Return the reductions of a model and of its parts; see `lftr.reductions`."""
    if not isinstance(model, nn.Module):
        raise ArgumentError.of("model", model, "a torch.nn.Module")
    reductions: list[Reduction | ModuleReduction] = []
    for part in model.modules():
        hooks = hooks_of(part)
        reductions += module_reductions(part)
        reductions += [] if hooks is None else hooks.stack
    return reductions


def current(model: Any) -> Reduction:
    """Return the reduction that is on for ``model``.

    Raises
    ------
    UnsupportedModelError
        If there is none.
    """
    hooks = hooks_of(model) if isinstance(model, nn.Module) else None
    if hooks is None or hooks.top is None:
        raise UnsupportedModelError(
            f"no reduction is on for this {type(model).__name__}; call lftr.reduce first"
        )
    return hooks.top
