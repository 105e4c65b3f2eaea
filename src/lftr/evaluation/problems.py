"""What could not be asked, and why; the rest goes on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ..errors import LftrError
from .items import Item, Question


@dataclass(frozen=True)
class Problem:
    """Something that could not be asked, and why."""

    where: str
    reason: str

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}"


def readable(items: Iterable[Item], problems: list[Problem]) -> Iterator[tuple[Item, Question]]:
    """Yield items with their images read; those whose images cannot be are added to problems."""
    for item in items:
        try:
            yield item, item.asked()
        except LftrError as error:
            problems.append(Problem(item.id, str(error)))
