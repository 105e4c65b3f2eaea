"""Times of several settings, measured in turns, so that a slow phase affects all alike."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..asking.items import QuestionLike
from ..asking.settings import Setting
from .call import Call
from .parts import Parts, time_prefill


@dataclass(frozen=True)
class Spread:
    """A median with its quartiles."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Summarise at least one value."""
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(middle, low, high)

    @classmethod
    def of_ratios(cls, over: Sequence[float], under: Sequence[float]) -> Spread:
        """Summarise the ratios of values that were measured in the same round."""
        return cls.of([a / b for a, b in zip(over, under, strict=True)])

    @property
    def plain(self) -> dict[str, float]:
        """As plain values."""
        return {"median": self.median, "low": self.low, "high": self.high}

    @property
    def width(self) -> float:
        """Interquartile range."""
        return self.high - self.low


@dataclass
class Times:
    """The parts of every repetition of a setting."""

    parts: list[Parts] = field(default_factory=list)

    def of(self, part: str) -> list[float]:
        """Return every repetition's time of a part, in milliseconds."""
        return [getattr(one, part) for one in self.parts]

    @property
    def encoder(self) -> Spread:
        """The vision encoder."""
        return Spread.of(self.of("encoder"))

    @property
    def after_encoder(self) -> Spread:
        """Everything between the encoder and the first token."""
        return Spread.of(self.of("after_encoder"))


def time_settings(
    model: Any,
    processor: Any,
    examples: Sequence[QuestionLike],
    settings: Sequence[Setting],
    *,
    text_tower: Any = None,
    step: Callable[[int], None] = lambda settings: None,
) -> list[Times]:
    """Time every setting on every example, one question at a time, in turns.

    The first round is a warm-up and is not counted.
    """
    times = [Times() for _ in settings]
    for number, example in enumerate([examples[0], *examples]):
        call = Call.of(model, processor, [example], text_tower)
        for setting, seen in zip(settings, times, strict=True):
            parts = time_prefill(call, setting)
            if number:
                seen.parts.append(parts)
            step(1)
    return times
