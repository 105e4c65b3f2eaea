"""Where questions come from: a suite of the package, or a JSONL file of one's own."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from .. import suites
from ..errors import ArgumentError
from ..suites import Example
from .items import Item, digest
from .jsonl import Problem, read_jsonl
from .scoring import check_scored


@dataclass(frozen=True)
class Data:
    """Questions of one task.

    Attributes
    ----------
    name : str
        The suite, or the file.
    source : str
        The suite, or where the file lies.
    items : sequence of Item
        What is asked.
    problems : sequence of Problem
        Lines that are left out, and why.
    """

    name: str
    source: str
    items: Sequence[Item]
    problems: Sequence[Problem] = ()

    def describe(self) -> Mapping[str, Any]:
        """Return name, number of questions and digest, for a run's configuration."""
        return {"name": self.name, "questions": len(self.items), "digest": digest(self.items)}


def load_data(
    source: str, *, split: str = "test", n: int | None = None, seed: int = 0, metric: str = "exact"
) -> Data:
    """Load questions.

    Parameters
    ----------
    source : str
        The name of a suite, or the path of a JSONL file: one object in each line, with ``image``
        (a path or several, relative to the file), ``question``, ``answers`` (one or several) and
        optionally ``id``, ``category`` and ``choices``.
    split, seed : str, int
        Of a suite.
    n : int, optional
        How many; by default 240 of a suite, all of a file.
    metric : str
        Lines of a file whose answers it cannot score are problems.

    Raises
    ------
    ArgumentError
        If there is neither, or not one line of the file can be asked.
    """
    if source in suites.NAMES:
        examples = suites.load(source, split, 240 if n is None else n, seed)
        items = [
            Item.of(example, source, functools.partial(_draw, examples, number))
            for number, example in enumerate(examples)
        ]
        return Data(source, source, items)
    path = Path(source)
    if not path.is_file():
        allowed = f"a JSONL file that exists, or a suite: {', '.join(suites.NAMES)}"
        raise ArgumentError.of("data", source, allowed)
    found, problems = read_jsonl(path, check=functools.partial(check_scored, metric))
    if not found:
        first = f"; {problems[0]}" if problems else ""
        raise ArgumentError.of("data", source, f"a file with at least one question{first}")
    return Data(path.name, source, found[:n], problems)


def _draw(examples: Sequence[Example], number: int) -> Sequence[Image.Image]:
    return examples[number].images
