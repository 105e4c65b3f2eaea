"""The line in the log, by a clock of its own."""

from __future__ import annotations

from pathlib import Path
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


def test_items_that_come_again_under_another_text() -> None:
    """As long as they are remembered; the same text again is no other one."""
    from lftr.hosts.vllm.metrics import Repeats

    repeats = Repeats(most=4)
    items = [("image", "first"), ("image", "first"), ("image", "second"), ("image", "first")]
    assert [repeats.add(*item) for item in items] == [False, False, True, False]
    assert [repeats.add("other", "third"), repeats.add("more", "fourth")] == [False, False]
    assert not repeats.add("image", "fifth")  # forgotten by now


def test_a_method_s_counters_are_shown_from_the_start() -> None:
    from prometheus_client import REGISTRY

    from lftr.hosts.vllm.metrics import Counters

    Counters.get().begin("begun")
    names = ("requests", "items", "visual_tokens", "kept_tokens", "guided_items", "guided_again")
    for name in names:
        assert REGISTRY.get_sample_value(f"lftr:{name}_total", {"method": "begun"}) == 0


def test_failures_of_several_processes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Counted in one file; logged at once, then at most every ten seconds for each method."""
    from lftr.hosts.vllm import metrics

    file = tmp_path / "failures"
    file.touch()
    lines: list[tuple[Any, ...]] = []
    now = 100.0
    monkeypatch.setenv(metrics.FAILURES, str(file))
    monkeypatch.setattr(metrics.time, "monotonic", lambda: now)
    monkeypatch.setattr(metrics.logger, "exception", lambda *said: lines.append(said[1:]))
    one, other = metrics.Failures(), metrics.Failures()
    one.add("divprune", "first", 1)
    one.add("divprune", "second", 2)
    one.add("lftr", "third", 4)
    other.add("divprune", "fourth", 8)
    assert lines == [("first", 1), ("third", 4), ("fourth", 8)]
    now += 10
    one.add("divprune", "fifth", 16)
    assert lines[3:] == [("fifth", 18)]
    (family,) = metrics._FailedItems().collect()
    found = {sample.labels["method"]: sample.value for sample in family.samples}
    assert found == {"divprune": 27, "lftr": 4}
    file.unlink()
    other.add("divprune", "sixth", 1)  # nobody reads it any more
    (family,) = metrics._FailedItems().collect()  # a cleared file is made anew
    assert family.samples == []
    other.add("divprune", "seventh", 1)
    (family,) = metrics._FailedItems().collect()
    assert [sample.value for sample in family.samples] == [1]
