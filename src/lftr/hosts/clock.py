"""Time of the parts of a call: by events on a GPU, so that nothing waits for the clock."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch


class Clock:
    """Attributes the time between laps to names.

    Parameters
    ----------
    device : torch.device
        The device that does the timed work; it need not be the current one.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._laps: list[tuple[str, object]] = [("", self._now())]

    def _now(self) -> object:
        if self._device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event

    def lap(self, name: str) -> None:
        """Attribute the time since the last lap to ``name``."""
        self._laps.append((name, self._now()))

    def readings(self) -> dict[str, Callable[[], float] | float]:
        """Return for each name a function that gives its milliseconds, waiting for the GPU then."""
        return {name: lambda n=name: self._sum(n) for name, _ in self._laps if name}  # type: ignore[misc]

    def _sum(self, name: str) -> float:
        pairs = zip(self._laps[:-1], self._laps[1:], strict=True)
        return sum(self._between(a[1], b[1]) for a, b in pairs if b[0] == name)

    def _between(self, start: object, end: object) -> float:
        if isinstance(start, torch.cuda.Event) and isinstance(end, torch.cuda.Event):
            end.synchronize()
            return float(start.elapsed_time(end))
        assert isinstance(start, float)
        assert isinstance(end, float)
        return (end - start) * 1e3
