"""The eight kinds of question about a scene, each asked only if it has one right answer."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np

from .example import SceneObject, SuiteQuestion
from .layout import COLOURS, KINDS, SHAPES, SIDE

Objects = Sequence[SceneObject]
_T = TypeVar("_T")

YES_NO = ("yes", "no")
COUNTS = ("0", "1", "2", "3", "4", "5")
CELLS = (
    ("top-left", "top", "top-right"),
    ("left", "center", "right"),
    ("bottom-left", "bottom", "bottom-right"),
)
SIDES = ("left", "right", "above", "below")
DIGITS = tuple(str(value) for value in range(10))

_CELL_MARGIN = 6.0  # pixels between a centre and the next cell of the 3x3 raster
_SIDE_DOMINANCE = 1.7  # how much longer one axis of an offset is than the other
_SIZE_RATIO = 1.3  # least ratio of two sizes that are compared


def ask(category: str, objects: Objects, rng: np.random.Generator) -> Iterator[SuiteQuestion]:
    """Yield the questions that can be asked about a scene, in random order.

    Every question has one answer: an object that it refers to is the only one of that description,
    and quantities that it compares differ by a clear margin.
    """
    return (
        SuiteQuestion(text, answer, category, choices, tuple(referents))
        for text, answer, choices, referents in _ASKERS[category](objects, rng)
    )


_ImageQuestions = Iterator[tuple[str, str, tuple[str, ...], Sequence[int]]]


def _existence(objects: Objects, rng: np.random.Generator) -> _ImageQuestions:
    present = {(obj.colour, obj.kind) for obj in objects}
    colours = {obj.colour for obj in objects}
    kinds = {obj.kind for obj in objects}
    hard = [pair for pair in itertools.product(colours, kinds) if pair not in present]
    easy = [pair for pair in itertools.product(COLOURS, KINDS) if pair not in present]
    absent = sorted(hard) if hard and rng.random() < 0.7 else easy
    pairs = [shuffled(sorted(present), rng), shuffled(absent, rng)]
    first = rng.integers(2)
    for two in zip(pairs[first], pairs[1 - first], strict=False):
        for colour, kind in two:
            article = "an" if colour == "orange" else "a"
            matching = [i for i, o in enumerate(objects) if (o.colour, o.kind) == (colour, kind)]
            answer = "yes" if matching else "no"
            yield f"Is there {article} {colour} {kind}?", answer, YES_NO, matching


def _colour(objects: Objects, rng: np.random.Generator) -> _ImageQuestions:
    for i in _order(objects, rng):
        if _unique(objects, kind=objects[i].kind):
            text = f"What colour is the {objects[i].kind}?"
            yield text, objects[i].colour, tuple(COLOURS), [i]


def _shape(objects: Objects, rng: np.random.Generator) -> _ImageQuestions:
    for i in _order(objects, rng):
        if objects[i].kind != "digit" and _unique(objects, colour=objects[i].colour):
            text = f"What shape is the {objects[i].colour} object?"
            yield text, objects[i].kind, SHAPES, [i]


def _count(objects: Objects, rng: np.random.Generator) -> _ImageQuestions:
    for kind, name in shuffled([(0, c) for c in COLOURS] + [(1, k) for k in KINDS], rng):
        matching = [i for i, o in enumerate(objects) if name == (o.kind if kind else o.colour)]
        if len(matching) < len(COUNTS):
            noun = _plural(name) if kind else f"{name} objects"
            yield f"How many {noun} are there?", COUNTS[len(matching)], COUNTS, matching


def _position(objects: Objects, rng: np.random.Generator) -> _ImageQuestions:
    choices = tuple(itertools.chain.from_iterable(CELLS))
    for i in _order(objects, rng):
        column, row = _cell(objects[i].x), _cell(objects[i].y)
        if column is not None and row is not None and (name := _name(objects, i, rng)):
            yield f"Where is {name}?", CELLS[row][column], choices, [i]


def _relation(objects: Objects, rng: np.random.Generator) -> _ImageQuestions:
    for i, j in shuffled(list(itertools.permutations(range(len(objects)), 2)), rng):
        dx, dy = objects[i].x - objects[j].x, objects[i].y - objects[j].y
        long, short = max(abs(dx), abs(dy)), min(abs(dx), abs(dy))
        if long < 24 or long < _SIDE_DOMINANCE * short:
            continue
        one, other = _name(objects, i, rng), _name(objects, j, rng)
        if one and other:
            answer = SIDES[int(dx > 0)] if abs(dx) > abs(dy) else SIDES[2 + int(dy > 0)]
            yield f"On which side of {other} is {one}?", answer, SIDES, [i, j]


def _comparison(objects: Objects, rng: np.random.Generator) -> _ImageQuestions:
    shapes = [i for i, obj in enumerate(objects) if obj.kind != "digit"]
    pairs = shuffled(list(itertools.permutations(shapes, 2)), rng)
    extremes = (_superlative(objects, shapes, bigger) for bigger in shuffled([True, False], rng))
    for i, j in pairs:
        if rng.random() < 0.5:
            yield from next(extremes, ())
        one, other = objects[i], objects[j]
        ratio = one.size / other.size
        if one.kind == other.kind or 1 / _SIZE_RATIO < ratio < _SIZE_RATIO:
            continue
        first, second = _name(objects, i, rng), _name(objects, j, rng)
        if first and second:
            bigger = bool(rng.random() < 0.5)
            text = f"Which is {'bigger' if bigger else 'smaller'}, {first} or {second}?"
            answer = one.kind if bigger == (ratio > 1) else other.kind
            yield text, answer, (one.kind, other.kind), [i, j]


def _superlative(objects: Objects, shapes: Sequence[int], bigger: bool) -> _ImageQuestions:
    if len(shapes) < 3:
        return
    first, second, *_ = sorted(shapes, key=lambda i: objects[i].size, reverse=bigger)
    ratio = objects[first].size / objects[second].size
    if max(ratio, 1 / ratio) >= _SIZE_RATIO:
        text = f"What colour is the {'biggest' if bigger else 'smallest'} shape?"
        yield text, objects[first].colour, tuple(COLOURS), [first]


def _reading(objects: Objects, rng: np.random.Generator) -> _ImageQuestions:
    digits = [i for i, obj in enumerate(objects) if obj.kind == "digit"]
    for i in shuffled(digits, rng):
        if len(digits) == 1 and rng.random() < 0.5:
            yield "What is the digit?", str(objects[i].value), DIGITS, [i]
        elif _unique(objects, kind="digit", colour=objects[i].colour):
            yield f"What is the {objects[i].colour} digit?", str(objects[i].value), DIGITS, [i]


_ASKERS: dict[str, Callable[[Objects, np.random.Generator], _ImageQuestions]] = {
    "existence": _existence,
    "colour": _colour,
    "shape": _shape,
    "count": _count,
    "position": _position,
    "relation": _relation,
    "comparison": _comparison,
    "reading": _reading,
}
CATEGORIES = tuple(_ASKERS)


def shuffled(items: Sequence[_T], rng: np.random.Generator) -> list[_T]:
    """Return the items in random order."""
    return [items[i] for i in rng.permutation(len(items))]


def _order(objects: Objects, rng: np.random.Generator) -> list[int]:
    return [int(i) for i in rng.permutation(len(objects))]


def _unique(objects: Objects, kind: str | None = None, colour: str | None = None) -> bool:
    return sum(kind in (None, o.kind) and colour in (None, o.colour) for o in objects) == 1


def _name(objects: Objects, i: int, rng: np.random.Generator) -> str | None:
    """Return a description that fits this object only, at random by its kind alone; else None."""
    kind, colour = objects[i].kind, objects[i].colour
    if rng.random() < 0.5 and _unique(objects, kind=kind):
        return f"the {kind}"
    return f"the {colour} {kind}" if _unique(objects, kind=kind, colour=colour) else None


def _plural(kind: str) -> str:
    return f"{kind}es" if kind == "cross" else f"{kind}s"


def _cell(along: float) -> int | None:
    """Return the third of the image, 0 to 2, or None close to a border between two."""
    third = SIDE / 3
    cell = int(along // third)
    near = min(abs(along - third), abs(along - 2 * third))
    return cell if near >= _CELL_MARGIN else None
