"""What the commands write while they work."""

from __future__ import annotations

import pytest

from lftr.cli import terminal


@pytest.mark.parametrize("known", [True, False], ids=["steps", "a total that is told later"])
def test_lines_have_the_time_left(
    known: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each step takes a minute, longer than rich remembers by default."""
    now = 0.0
    for place in ("time.monotonic", "rich.console.monotonic"):
        monkeypatch.setattr(place, lambda: now)
    with terminal.progress("asking", 4 if known else 1) as bar:
        for number in range(4):
            if not known:
                bar.update(bar.task_ids[0], completed=number, total=4)
            elif number:
                bar.step(1)
            now += 60.0
    assert capsys.readouterr().err.splitlines()[1:4] == [
        "asking 1/4, 0:03:00 left",
        "asking 2/4, 0:02:00 left",
        "asking 3/4, 0:01:00 left",
    ]
