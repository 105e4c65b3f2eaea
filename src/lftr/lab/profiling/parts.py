"""The parts of a call's time, from one run of it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...hosts.clock import Clock
from ...hosts.transformers.api import Model
from ...hosts.transformers.families import Family, family_of
from ..asking.settings import Setting
from .call import Call


@dataclass(frozen=True)
class Parts:
    """Milliseconds of one prefill.

    Attributes
    ----------
    encoder : float
        The vision encoder with its projector.
    method : float
        The method's decision.
    host : float
        Positions, masks and gathering of the kept tokens.
    prefill : float
        The rest: the language model's forward over the prompt.
    """

    encoder: float
    method: float
    host: float
    prefill: float

    @property
    def total(self) -> float:
        """From the images to the first token."""
        return self.encoder + self.after_encoder

    @property
    def after_encoder(self) -> float:
        """From the encoder's output to the first token."""
        return self.method + self.host + self.prefill


@torch.inference_mode()
def time_prefill(call: Call, setting: Setting) -> Parts:
    """Run the call once, up to the logits of the first token, and return its parts."""
    with call.under(setting) as reduction:
        family = family_of(call.model)
        with _encoder_laps(call.model, family) as encoder:
            clock = Clock(call.model.device)
            call.model(**call.inputs, **last_logits(call.model))
            clock.lap("total")
        report = reduction.report
        whole = reading(clock, "total")
        inside = report.encode_ms if encoder is None else reading(encoder, "encode")
        rest = whole - inside - report.method_ms - report.host_ms
        return Parts(inside, report.method_ms, report.host_ms, rest)


@torch.inference_mode()
def time_decode(call: Call, setting: Setting, tokens: int) -> float:
    """Generate ``tokens`` after the first one, greedily; milliseconds for each."""
    laps = _Laps(call.model.device)
    with call.under(setting):
        call.model.generate(
            **call.inputs,
            do_sample=False,
            min_new_tokens=tokens + 1,
            max_new_tokens=tokens + 1,
            streamer=laps,
        )
    return reading(laps.clock, "decode") / tokens


def last_logits(model: Any) -> dict[str, Any]:
    """Return the arguments for a forward that fills a cache and computes only the last logits."""
    known = inspect.signature(model.forward).parameters
    options = {"use_cache": True, "logits_to_keep": 1}
    return {name: value for name, value in options.items() if name in known}


def reading(clock: Clock, name: str) -> float:
    """Return the milliseconds of a timed part; waits for the device."""
    value = clock.readings()[name]
    return value() if callable(value) else value


@contextmanager
def _encoder_laps(model: Model, family: Family) -> Iterator[Clock | None]:
    """Time the vision tower if the model encodes; otherwise the host times it itself."""
    if family.kind == "prefill":
        yield None
        return
    tower = family.module(model, family.tower)
    clock = Clock(next(tower.parameters()).device)

    def before(module: nn.Module, args: tuple[Any, ...]) -> None:
        clock.lap("other")

    def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        clock.lap("encode")

    handles = [tower.register_forward_pre_hook(before), tower.register_forward_hook(after)]
    try:
        yield clock
    finally:
        for handle in handles:
            handle.remove()


class _Laps:
    """A streamer that measures the time between generated tokens."""

    def __init__(self, device: torch.device) -> None:
        self.clock = Clock(device)
        self._names = iter(("prompt", "first"))

    def put(self, value: Tensor) -> None:
        """Record the time of the prompt or of a new token."""
        self.clock.lap(next(self._names, "decode"))

    def end(self) -> None:
        """Do nothing: the time of the last token is recorded."""
