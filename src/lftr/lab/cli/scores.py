"""A bar for each setting of a run, with its score so far."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

from ...cli.terminal import Bars

if TYPE_CHECKING:
    from ..evaluation import Setting
    from ..evaluation.runs import Prediction


class Scores(Bars):
    """Bars on stderr that go when the run is done.

    Parameters
    ----------
    settings : sequence of Setting
        One bar for each.
    questions : int
        Length of a bar.
    done : sequence of Prediction
        What an earlier start has answered.
    """

    def __init__(
        self, settings: Sequence[Setting], questions: int, done: Sequence[Prediction]
    ) -> None:
        super().__init__(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[score]}"),
            TimeRemainingColumn(),
        )
        self._answered = dict.fromkeys((one.label for one in settings), 0)
        self._sums = dict.fromkeys(self._answered, 0.0)
        self._bars = {
            label: self.add_task(label, total=questions, score="") for label in self._sums
        }
        for line in done:
            self.add(line["setting"], [line])

    def add(self, label: str, lines: Sequence[Prediction]) -> None:
        """Count new answers of a setting."""
        self._sums[label] += sum(line["score"] for line in lines)
        self._answered[label] += len(lines)
        answered = self._answered[label]
        score = f"{self._sums[label] / max(answered, 1):.1%}"
        self.update(self._bars[label], completed=answered, score=score)
