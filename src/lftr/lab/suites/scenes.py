"""The ``scenes`` suite: coloured shapes and handwritten digits over textured backgrounds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from ...values.errors import ArgumentError
from .drawn import SPLITS, Drawn
from .example import Example, SceneObject, SuiteQuestion
from .layout import COLOURS, SHAPES, sample_objects
from .questions import CATEGORIES, CELLS, COUNTS, DIGITS, SIDES, YES_NO, ask
from .render import render

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
class Scenes(Drawn[Example]):
    """Still images, 192x192. See `Drawn` for the parameters."""

    def _draw(self, index: int) -> Example:
        rng = np.random.default_rng([SPLITS.index(self.split), self.seed, index])
        objects, question = draw(rng, self.split, CATEGORIES[index % len(CATEGORIES)])
        return Example(
            (Image.fromarray(render(objects, rng)),),
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
) -> tuple[tuple[SceneObject, ...], SuiteQuestion]:
    """Draw a scene and a question of ``category`` about it.

    Parameters
    ----------
    most : int
        Largest number of objects in the scene; training begins with a smaller one.
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
