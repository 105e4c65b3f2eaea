"""The ``scenes`` suite: coloured shapes and handwritten digits over textured backgrounds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
from PIL import Image

from ..errors import ArgumentError
from .example import Example, Question, SceneObject
from .layout import COLOURS, SHAPES, sample_objects
from .questions import CATEGORIES, CELLS, COUNTS, DIGITS, SIDES, YES_NO, ask
from .render import render

SPLITS = ("train", "validation", "test")
_OBJECTS = (4, 8)

# An answer is drawn first and a scene that has it is looked for, so that each is as frequent.
_ANSWERS: dict[str, tuple[str, ...]] = {
    "existence": YES_NO,
    "colour": tuple(COLOURS),
    "shape": SHAPES,
    "count": COUNTS,
    "position": tuple(cell for row in CELLS for cell in row),
    "relation": SIDES,
    "comparison": (),  # two-way choices of the question's own: balanced as they are asked
    "reading": DIGITS,
}


@dataclass(frozen=True)
class Scenes(Sequence[Example]):
    """``n`` examples, drawn when they are looked at; the same ones every time.

    Example ``i`` depends on ``split``, ``seed`` and ``i`` alone. Categories take turns, so that
    each has ``n / 8`` examples.

    Parameters
    ----------
    split : {"train", "validation", "test"}
        The splits share no seed and no handwritten digit.
    n : int
        How many examples.
    seed : int
        Another seed, other scenes.
    """

    split: str = "test"
    n: int = 400
    seed: int = 0

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise ArgumentError.unknown("split", self.split, SPLITS)
        if self.n < 0:
            raise ArgumentError.of("n", self.n, "a whole number >= 0")
        if self.seed < 0:
            raise ArgumentError.of("seed", self.seed, "a whole number >= 0")

    def __len__(self) -> int:
        return self.n

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | Sequence[Example]:
        if isinstance(index, slice):
            return [self._draw(i) for i in range(self.n)[index]]
        return self._draw(range(self.n)[index])

    def __iter__(self) -> Iterator[Example]:
        return (self._draw(i) for i in range(self.n))

    def _draw(self, index: int) -> Example:
        rng = np.random.default_rng([SPLITS.index(self.split), self.seed, index])
        objects, question = draw(rng, self.split, CATEGORIES[index % len(CATEGORIES)])
        return Example(
            Image.fromarray(render(objects, rng)),
            question.text,
            question.answer,
            question.category,
            question.choices,
            f"{self.split}/{self.seed}/{index}",
            objects,
            question.referents,
        )


def draw(
    rng: np.random.Generator, split: str, category: str, most: int = _OBJECTS[1]
) -> tuple[tuple[SceneObject, ...], Question]:
    """Draw a scene and a question of ``category`` about it.

    Parameters
    ----------
    most : int
        Most objects in the scene; training begins with fewer.
    """
    answers = _ANSWERS[category]
    wanted = answers[rng.integers(len(answers))] if answers else None
    least = min(_OBJECTS[0], most)
    for attempt in range(200):
        objects = sample_objects(rng, split, int(rng.integers(least, most + 1)))
        for question in ask(category, objects, rng):
            if wanted in (None, question.answer):
                return objects, question
        if attempt == 159:  # hardly ever, but where few objects cannot give the answer at all
            wanted = None
    raise ArgumentError.of("most", most, f"enough objects for a question about {category}")


__all__ = ["SPLITS", "Scenes", "draw"]
