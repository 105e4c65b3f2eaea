"""Time to the first token, part by part."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ..prompting import inputs_of
from ..reduce import prepare, reduce
from ..suites import Example
from .compare import Setting


@dataclass
class Times:
    """Milliseconds of every repetition of a setting, one question at a time.

    Attributes
    ----------
    encoder : list of float
        The vision encoder.
    method : list of float
        The method and the bookkeeping around it.
    language : list of float
        The language model's forward over the prompt.
    """

    encoder: list[float] = field(default_factory=list)
    method: list[float] = field(default_factory=list)
    language: list[float] = field(default_factory=list)

    @property
    def encoder_ms(self) -> float:
        """Median of the vision encoder."""
        return statistics.median(self.encoder)

    @property
    def prefill_ms(self) -> float:
        """Median of everything between the encoder and the first token."""
        return statistics.median(a + b for a, b in zip(self.method, self.language, strict=True))

    @property
    def spread_ms(self) -> float:
        """Interquartile range of the same."""
        totals = [a + b for a, b in zip(self.method, self.language, strict=True)]
        if len(totals) < 2:
            return 0.0
        low, _, high = statistics.quantiles(totals, n=4)
        return high - low


@torch.inference_mode()
def time_settings(
    model: Any,
    processor: Any,
    examples: Sequence[Example],
    settings: Sequence[Setting],
    *,
    text_tower: Any = None,
    step: Callable[[int], None] = lambda settings: None,
) -> list[Times]:
    """Time every setting on every example, in turns, so that a slow moment hits all alike.

    The first round warms up and does not count.
    """
    times = [Times() for _ in settings]
    for number, example in enumerate([examples[0], *examples]):
        inputs = inputs_of(processor, [example.image], example.question)
        inputs = inputs.to(model.device, dtype=model.dtype)
        for setting, seen in zip(settings, times, strict=True):
            one = _time(model, processor, inputs, setting, example.question, text_tower)
            if number:
                for values, ms in zip((seen.encoder, seen.method, seen.language), one, strict=True):
                    values.append(ms)
            step(1)
    return times


def _time(
    model: Any, processor: Any, inputs: Any, setting: Setting, question: str, text_tower: Any
) -> tuple[float, float, float]:
    on = reduce(
        model,
        setting.method,
        keep=setting.keep,
        text=question,
        processor=processor,
        text_tower=text_tower,
    )
    with on as reduction:
        prepared = prepare(model, **inputs)
        _wait(model)
        start = time.perf_counter()
        model(**prepared, use_cache=True, logits_to_keep=1)
        _wait(model)
        language = (time.perf_counter() - start) * 1e3
        report = reduction.report
        return report.encode_ms, report.method_ms + report.host_ms, language


def _wait(model: Any) -> None:
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)
