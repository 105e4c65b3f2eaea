"""Times are those of the device that works, whichever is the current one."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch

from lftr.hosts.clock import Clock


class Event:
    """A CUDA event: on the stream of which device it was recorded, and when."""

    recorded: ClassVar[list[Any]] = []

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self, stream: Any = None) -> None:
        self.at = len(self.recorded)
        self.recorded.append(stream)

    def synchronize(self) -> None:
        """Nothing is under way."""

    def elapsed_time(self, other: Event) -> float:
        return float(other.at - self.at)


def test_events_are_recorded_on_the_models_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: ("stream of", device))
    monkeypatch.setattr(Event, "recorded", [])
    device = torch.device("cuda:1")
    clock = Clock(device)
    for name in ("encode", "method", "encode"):
        clock.lap(name)
    readings: dict[str, Any] = clock.readings()
    assert {name: read() for name, read in readings.items()} == {"encode": 2.0, "method": 1.0}
    assert Event.recorded == [("stream of", device)] * 4


def test_laps_add_up_on_a_cpu() -> None:
    clock = Clock(torch.device("cpu"))
    clock.lap("encode")
    clock.lap("method")
    readings: dict[str, Any] = clock.readings()
    assert set(readings) == {"encode", "method"}
    assert all(read() >= 0 for read in readings.values())
