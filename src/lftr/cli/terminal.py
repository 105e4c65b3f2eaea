"""Output of the commands: results to stdout, everything else to stderr."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table as RichTable

_PIPED_WIDTH = 200
_SECONDS_BETWEEN_LINES = 30.0


def stdout() -> Console:
    """Return a console for results."""
    console = Console()
    return console if console.is_terminal else Console(width=_PIPED_WIDTH)


def stderr() -> Console:
    """Return a console for progress and errors."""
    return Console(stderr=True)


def say(*lines: str, style: str | None = None) -> None:
    """Write lines to stdout, without markup."""
    for line in lines:
        stdout().print(line, style=style, markup=False, highlight=False, soft_wrap=True)


def remark(*lines: str) -> None:
    """Write lines to stderr, without markup."""
    for line in lines:
        stderr().print(line, markup=False, highlight=False, soft_wrap=True)


def print_json(value: Any) -> None:
    """Write ``value`` to stdout as JSON, and nothing else."""
    print(json.dumps(value, indent=2, allow_nan=False))


def percent(row: Mapping[str, Any], name: str) -> str:
    """Return a row's share with its interval, as ``97.1% (96.2-98.0)``."""
    if row[name] is None:
        return "-"
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return f"{row[name]:.1%} ({100 * low:.1f}-{100 * high:.1f})"


@contextmanager
def show_spinner(what: str) -> Iterator[None]:
    """Show a spinner; one line if there is no terminal."""
    console = stderr()
    if not console.is_terminal:
        console.print(f"{what}...", highlight=False)
    with console.status(what):
        yield


class Bars(Progress):
    """Progress bars on stderr that vanish at the end.

    Without a terminal, a line at the start and one every half minute. The time left is estimated
    from all steps so far: rich forgets a step after half a minute, and some take longer.
    """

    def __init__(self, *columns: ProgressColumn) -> None:
        super().__init__(*columns, console=stderr(), transient=True, speed_estimate_period=math.inf)
        self._written = -math.inf

    def update(self, task_id: TaskID, **options: Any) -> None:
        """Update a bar."""
        super().update(task_id, **options)
        super().advance(task_id, 0)  # a new total made rich forget when the task began
        self._write()

    def advance(self, *args: Any, **options: Any) -> None:
        """Advance a bar."""
        super().advance(*args, **options)
        self._write()

    def step(self, count: float) -> None:
        """Advance the first bar."""
        self.advance(self.task_ids[0], count)

    def _write(self) -> None:
        now = time.monotonic()
        if self.console.is_terminal or now - self._written < _SECONDS_BETWEEN_LINES:
            return
        self._written = now
        lines = []
        for task in self.tasks:
            left = task.time_remaining
            rest = f", {timedelta(seconds=round(left))} left" if left else ""
            lines.append(f"{task.description} {task.completed:.0f}/{task.total:.0f}{rest}")
        self.console.print(", ".join(lines), highlight=False, markup=False)


@contextmanager
def progress(what: str, total: int) -> Iterator[Bars]:
    """Show a single bar of ``total`` steps."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Bars(*columns) as bar:
        bar.advance(bar.add_task(what, total=total), 0)
        yield bar


@dataclass
class Table:
    """Rows of text with a heading, printable by rich and as Markdown.

    Attributes
    ----------
    columns : sequence of str
        Headings; those that end in ``>`` are right-aligned.
    """

    columns: Sequence[str]
    title: str = ""
    caption: str = ""
    rows: list[Sequence[str]] = field(default_factory=list)
    ruled_after: set[int] = field(default_factory=set)

    def add(self, *cells: str) -> None:
        """Add a row."""
        self.rows.append(cells)

    def rule(self) -> None:
        """Draw a line below the last row."""
        self.ruled_after.add(len(self.rows) - 1)

    def add_settings(
        self, rows: Sequence[Mapping[str, Any]], cells: Callable[[Mapping[str, Any]], Sequence[str]]
    ) -> None:
        """Add a row for each setting, a line below those of one ``keep``; ``cells`` go last."""
        for number, row in enumerate(rows):
            if number and row["keep"] != rows[number - 1]["keep"]:
                self.rule()
            self.add(row["keep"], row["method"], f"{row['tokens']:.4g}", *cells(row))

    def print(self) -> None:
        """Print to stdout."""
        table = RichTable(title=self.title or None, caption=self.caption or None)
        table.title_justify = table.caption_justify = "left"
        for column in self.columns:
            right = column.endswith(">")
            table.add_column(column.rstrip(">"), justify="right" if right else "left")
        for number, row in enumerate(self.rows):
            cells = [cell.replace("[", "\\[") for cell in row]
            table.add_row(*cells, end_section=number in self.ruled_after)
        stdout().print(table)

    def markdown(self) -> str:
        """Return the table as Markdown."""
        heads = [column.rstrip(">") for column in self.columns]
        marks = ["---:" if column.endswith(">") else "---" for column in self.columns]
        lines = [heads, marks, *self.rows]
        text = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
        return f"{text}\n\n{self.caption}" if self.caption else text
