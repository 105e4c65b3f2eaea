"""The objects of a scene and their places, as data; `render` draws them."""

from __future__ import annotations

import numpy as np

from .digits import samples
from .example import SceneObject

SIDE = 192
SHAPES = ("circle", "square", "triangle", "diamond", "star", "cross", "ring", "heart")
KINDS = (*SHAPES, "digit")
COLOURS = {
    "red": (212, 38, 44),
    "orange": (240, 138, 28),
    "yellow": (236, 222, 58),
    "green": (46, 160, 66),
    "cyan": (58, 202, 216),
    "blue": (46, 80, 214),
    "purple": (134, 52, 172),
    "white": (242, 242, 242),
}

_SIZES = {"shape": (15, 36), "digit": (18, 32)}
_GAP = 5  # least distance between boxes, in pixels
_DIGITS = 0.25  # share of digits among the objects


def sample_objects(rng: np.random.Generator, split: str, count: int) -> tuple[SceneObject, ...]:
    """Draw up to ``count`` objects that do not touch.

    Each scene draws from a few colours and shapes of its own, so that attributes repeat and a
    question has to name enough of them. Where there is no room left the scene stays smaller.
    """
    colours = rng.permutation(list(COLOURS))[: rng.integers(2, 6)]
    shapes = rng.permutation(SHAPES)[: rng.integers(2, 6)]
    objects: list[SceneObject] = []
    for _ in range(count):
        digit = rng.random() < _DIGITS
        size = _sample_size(rng, *_SIZES["digit" if digit else "shape"])
        place = _sample_place(rng, size, objects)
        if place is None:
            continue
        colour = str(colours[int(rng.integers(len(colours)))])
        angle = 6 * int(rng.integers(-2, 3))
        if digit:
            value = int(rng.integers(10))
            pool = samples(split, value)
            sample = pool[int(rng.integers(len(pool)))]
            objects.append(SceneObject("digit", colour, *place, size, angle, value, sample))
        else:
            shape = str(shapes[int(rng.integers(len(shapes)))])
            objects.append(SceneObject(shape, colour, *place, size, angle))
    return tuple(objects)


def _sample_size(rng: np.random.Generator, low: int, high: int) -> int:
    return round(float(np.exp(rng.uniform(np.log(low), np.log(high)))))


def _sample_place(
    rng: np.random.Generator, size: int, others: list[SceneObject]
) -> tuple[float, float] | None:
    margin = size / 2 + 2
    for x, y in rng.uniform(margin, SIDE - margin, (20, 2)).round(1).tolist():
        if all(
            max(abs(x - other.x), abs(y - other.y)) >= (size + other.size) / 2 + _GAP
            for other in others
        ):
            return x, y
    return None
