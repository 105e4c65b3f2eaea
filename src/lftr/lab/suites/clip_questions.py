"""The seven kinds of question about a clip, each asked only if it has one right answer."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from .example import SuiteQuestion
from .layout import COLOURS, SHAPES
from .questions import DIGITS, YES_NO, shuffled
from .tracks import Track

Tracks = Sequence[Track]

WAYS = ("left", "right", "up", "down")
TIMES = ("1", "2", "3")

_ClipQuestions = Iterator[tuple[str, str, tuple[str, ...], Sequence[int], Sequence[int]]]


def ask_clip(category: str, tracks: Tracks, rng: np.random.Generator) -> Iterator[SuiteQuestion]:
    """Yield the questions that can be asked about a clip, in random order."""
    return (
        SuiteQuestion(text, answer, category, choices, tuple(referents), tuple(frames))
        for text, answer, choices, referents, frames in _ASKERS[category](tracks, rng)
    )


def _motion(tracks: Tracks, rng: np.random.Generator) -> _ClipQuestions:
    for i in _order(tracks, rng):
        looks = tracks[i].looks
        dx, dy = looks[-1].x - looks[0].x, looks[-1].y - looks[0].y
        name = _name(tracks, i, rng)
        if (dx or dy) and name:
            answer = WAYS[int(dx > 0)] if abs(dx) > abs(dy) else WAYS[2 + int(dy > 0)]
            yield f"Which way did {name} move?", answer, WAYS, [i], _moving(tracks[i])


def _flashes(tracks: Tracks, rng: np.random.Generator) -> _ClipQuestions:
    for i in _order(tracks, rng):
        when, name = tracks[i].flashes, _name(tracks, i, rng)
        if tracks[i].kind != "digit" and when and name:
            yield f"How many times did {name} flash?", str(len(when)), TIMES, [i], when


def _order_of(tracks: Tracks, rng: np.random.Generator) -> _ClipQuestions:
    newcomers = [i for i, track in enumerate(tracks) if track.shown[0] > 0]
    for i, j in shuffled(list(itertools.permutations(newcomers, 2)), rng):
        one, other = tracks[i], tracks[j]
        first, second = _name(tracks, i, rng), _name(tracks, j, rng)
        apart = one.kind != other.kind and one.shown[0] != other.shown[0]
        if apart and first and second:
            answer = min(one, other, key=lambda track: track.shown[0]).kind
            frames = sorted((one.shown[0], other.shown[0]))
            text = f"What came first, {first} or {second}?"
            yield text, answer, (one.kind, other.kind), [i, j], frames


def _digit(tracks: Tracks, rng: np.random.Generator) -> _ClipQuestions:
    brief = [i for i, t in enumerate(tracks) if t.kind == "digit" and len(t.shown) == 1]
    if len(brief) == 1:
        track = tracks[brief[0]]
        yield "Which digit flashed?", str(track.looks[0].value), DIGITS, brief, track.shown


def _change(tracks: Tracks, rng: np.random.Generator) -> _ClipQuestions:
    for i in _order(tracks, rng):
        colours, kind = tracks[i].colours, tracks[i].kind
        if len(colours) == 2 and _unique(tracks, kind=kind):
            after = [f for f in tracks[i].shown if _colour(tracks[i], f) == colours[1]]
            yield f"What colour did the {kind} become?", colours[1], tuple(COLOURS), [i], after


def _late(tracks: Tracks, rng: np.random.Generator) -> _ClipQuestions:
    late = [i for i, track in enumerate(tracks) if track.shown[0] >= len(track.states) - 2]
    if len(late) == 1:
        track = tracks[late[0]]
        if track.kind != "digit" and track.states[-1] is not None:
            yield "What appeared at the end?", track.kind, SHAPES, late, track.shown


def _vanishing(tracks: Tracks, rng: np.random.Generator) -> _ClipQuestions:
    settled = [i for i, t in enumerate(tracks) if len(t.runs) == 1 and len(t.shown) > 1]
    gone = [i for i in settled if tracks[i].states[-1] is None]
    there = [i for i in settled if tracks[i].states[-1] is not None]
    both = [shuffled(gone, rng), shuffled(there, rng)]
    first = int(rng.integers(2))
    for pair in itertools.zip_longest(both[first], both[1 - first]):
        for i in pair:
            name = None if i is None else _name(tracks, i, rng)
            if name:
                last, end = tracks[i].shown[-1], len(tracks[i].states) - 1
                answer = "no" if last == end else "yes"
                yield f"Did {name} vanish?", answer, YES_NO, [i], range(min(last + 1, end), end + 1)


_ASKERS: dict[str, Callable[[Tracks, np.random.Generator], _ClipQuestions]] = {
    "motion": _motion,
    "flashes": _flashes,
    "order": _order_of,
    "digit": _digit,
    "change": _change,
    "late": _late,
    "vanishing": _vanishing,
}
CLIP_CATEGORIES = tuple(_ASKERS)


def _order(tracks: Tracks, rng: np.random.Generator) -> list[int]:
    return shuffled(range(len(tracks)), rng)


def _moving(track: Track) -> list[int]:
    """Return the frames from the last one before a motion to the first one after it."""
    places = [(look.x, look.y) for look in track.looks]
    start = max(i for i, place in enumerate(places) if place == places[0])
    return list(range(track.shown[start], track.shown[places.index(places[-1])] + 1))


def _colour(track: Track, frame: int) -> str | None:
    state = track.states[frame]
    return None if state is None else state.colour


def _unique(tracks: Tracks, kind: str, colour: str | None = None) -> bool:
    fits = (t for t in tracks if t.kind == kind and (colour is None or colour in t.colours))
    return sum(1 for _ in fits) == 1


def _name(tracks: Tracks, i: int, rng: np.random.Generator) -> str | None:
    """Return a description that fits this object only, at random by its kind alone; else None."""
    kind, colours = tracks[i].kind, tracks[i].colours
    by_kind = _unique(tracks, kind)
    if by_kind and (len(colours) > 1 or rng.random() < 0.5):
        return f"the {kind}"
    if len(colours) == 1 and _unique(tracks, kind, colours[0]):
        return f"the {colours[0]} {kind}"
    return None
