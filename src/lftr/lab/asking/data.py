"""Questions of a suite of the package, or of the user's own JSONL file."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...media.picking import Picking
from ...values.errors import ArgumentError
from .. import suites
from ..scoring.metrics import check_scored
from .items import Item, digest
from .jsonl import read_jsonl
from .problems import Problem


@dataclass(frozen=True)
class Data:
    """Questions of one task.

    Attributes
    ----------
    name : str
        The suite, or the file.
    source : str
        The suite, or the path of the file.
    items : sequence of Item
        The questions.
    problems : sequence of Problem
        Lines that are left out, with the reason.
    """

    name: str
    source: str
    items: Sequence[Item]
    problems: Sequence[Problem] = ()

    def describe(self) -> Mapping[str, Any]:
        """Return name, number of questions and digest, for a run's configuration."""
        return {"name": self.name, "questions": len(self.items), "digest": digest(self.items)}


def load_data(
    source: str,
    *,
    split: str = "test",
    n: int | None = None,
    seed: int = 0,
    metric: str = "exact",
    picking: Picking = Picking(),  # noqa: B008  (a value)
) -> Data:
    """Load questions.

    Parameters
    ----------
    source : str
        The name of a suite, or the path of a JSONL file: one object in each line, with ``image`` or
        ``video`` (a path or several, relative to the file), ``question``, ``answers`` (one or
        several) and optionally ``id``, ``category`` and ``choices``; ``images``, ``videos`` and
        ``answer`` are other spellings. Other fields are ignored, unless one looks like a misspelt
        name of a field that the line lacks: such a line is reported as a problem.
    split, seed : str, int
        Of a suite.
    n : int, optional
        Number of questions; by default 240 of a suite, all of a file.
    metric : str
        Questions whose answers it cannot score are left out and reported as problems.
    picking : Picking
        Which frames of a file's clips are read.

    Raises
    ------
    ArgumentError
        If there is no such suite or file, or no question that can be asked and scored.
    """
    if source in suites.NAMES:
        examples = suites.load(source, split, 240 if n is None else n, seed)
        items = [
            Item.of(example, source, functools.partial(examples.__getitem__, number))
            for number, example in enumerate(examples)
        ]
        return _questions_to_score(source, items, metric)
    path = Path(source)
    if not path.is_file():
        allowed = f"a JSONL file that exists, or a suite: {', '.join(suites.NAMES)}"
        raise ArgumentError.of("data", source, allowed)
    items, problems = read_jsonl(
        path, check=functools.partial(check_scored, metric), picking=picking
    )
    if not items:
        first = f"; {problems[0]}" if problems else ""
        lines = f" ({len(problems)} lines cannot be used)" if len(problems) > 1 else ""
        raise ArgumentError.of("data", source, f"a file with at least one question{first}{lines}")
    return Data(path.name, source, items[:n], problems)


def _questions_to_score(suite: str, items: Sequence[Item], metric: str) -> Data:
    """Return the questions of a suite that a metric can score; report the number of others."""
    kept, reasons = [], []
    for item in items:
        try:
            check_scored(metric, item.answers, item.choices)
        except ArgumentError as error:
            reasons.append(str(error))
        else:
            kept.append(item)
    if not reasons:
        return Data(suite, suite, items)
    many = f"{len(reasons)} of {len(items)} questions cannot be scored by {metric!r}, as the first"
    if not kept:
        raise ArgumentError.of("metric", metric, f"one that fits {suite!r}: {many}: {reasons[0]}")
    return Data(suite, suite, kept, [Problem(suite, f"{many} of them: {reasons[0]}")])
