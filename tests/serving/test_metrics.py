"""The line in the log, by a clock of its own."""

from __future__ import annotations

from typing import Any

import pytest


def test_the_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    """At once, then what has come since the last line, at most every ten seconds."""
    from lftr.hosts.vllm import metrics

    lines: list[tuple[Any, ...]] = []
    now = 100.0
    monkeypatch.setattr(metrics.time, "monotonic", lambda: now)
    monkeypatch.setattr(metrics.logger, "info", lambda *said: lines.append(said[1:]))
    pace = metrics.Pace()
    pace.add([(36, 9)], 0.002)
    assert lines.pop() == (1, 9, 36, 2.0)
    now += 9.9
    pace.add([(36, 9), (100, 5)], 0.004)
    assert lines == []
    now += 0.1
    pace.add([(10, 1)], 0.002)
    assert lines.pop() == (3, 15, 146, pytest.approx(2.0))
    now += 10
    pace.add([(4, 2)], 0.001)
    assert lines.pop() == (1, 2, 4, pytest.approx(1.0))
