"""Answers read off the symbols by programs that know nothing of how the questions were made."""

from __future__ import annotations

import itertools
import re

from lftr.lab.suites.layout import COLOURS, KINDS, SIDE
from lftr.lab.suites.tracks import FRAMES


def fitting(text, objects):
    """Objects that ``the red circle``, ``the circle`` or ``the red object`` can mean."""
    *_, noun = words = text.split()
    kind = None if noun == "object" else noun
    colour = words[-2] if words[-2] in COLOURS else None
    return [o for o in objects if kind in (None, o.kind) and colour in (None, o.colour)]


def only(text, objects):
    (found,) = fitting(text, objects)
    return found


def solve_scene(question, objects):
    """Answer from the symbols, by reading the question."""
    text = question.rstrip("?")
    if found := re.fullmatch(r"Is there an? (\w+ \w+)", text):
        return "yes" if fitting(f"the {found[1]}", objects) else "no"
    if found := re.fullmatch(r"What colour is the (biggest|smallest) shape", text):
        shapes = sorted((o for o in objects if o.kind != "digit"), key=lambda o: o.size)
        if found[1] == "biggest":
            shapes.reverse()
        ratio = shapes[0].size / shapes[1].size
        assert max(ratio, 1 / ratio) >= 1.3
        return shapes[0].colour
    if found := re.fullmatch(r"What colour is (the \w+)", text):
        return only(found[1], objects).colour
    if found := re.fullmatch(r"What shape is (the \w+ object)", text):
        return only(found[1], objects).kind
    if found := re.fullmatch(r"How many (\w+) objects are there", text):
        return str(sum(o.colour == found[1] for o in objects))
    if found := re.fullmatch(r"How many (\w+?)(es|s) are there", text):
        kinds = [kind for kind in KINDS if found[1] + found[2] in (f"{kind}s", f"{kind}es")]
        return str(sum(o.kind in kinds for o in objects))
    if found := re.fullmatch(r"Where is (the .+)", text):
        one = only(found[1], objects)
        row, column = (int(v // (SIDE / 3)) for v in (one.y, one.x))
        name = f"{('top', '', 'bottom')[row]}-{('left', '', 'right')[column]}"
        return name.strip("-") or "center"
    if found := re.fullmatch(r"On which side of (the .+) is (the .+)", text):
        other, one = only(found[1], objects), only(found[2], objects)
        dx, dy = one.x - other.x, one.y - other.y
        assert max(abs(dx), abs(dy)) >= 1.7 * min(abs(dx), abs(dy))
        if abs(dx) > abs(dy):
            return "right" if dx > 0 else "left"
        return "below" if dy > 0 else "above"
    if found := re.fullmatch(r"Which is (bigger|smaller), (the .+) or (the .+)", text):
        pair = sorted((only(found[2], objects), only(found[3], objects)), key=lambda o: o.size)
        assert pair[1].size / pair[0].size >= 1.3
        return pair[found[1] == "bigger"].kind
    found = re.fullmatch(r"What is (the .*digit)", text)
    return str(only(found[1], objects).value)


def only_track(text, tracks):
    """The one object that ``the red circle`` or ``the circle`` can mean."""
    words = text.removeprefix("the ").split()
    fits = [
        track for track in tracks if track.kind == words[-1] and set(words[:-1]) <= {*track.colours}
    ]
    assert len(fits) == 1
    return fits[0]


def solve_clip(question, tracks):
    """Answer from the frames of the objects, by reading the question."""
    text = question.rstrip("?")
    last = FRAMES - 1
    if found := re.fullmatch(r"Which way did (the .+) move", text):
        begin, *_, end = only_track(found[1], tracks).looks
        dx, dy = end.x - begin.x, end.y - begin.y
        assert max(abs(dx), abs(dy)) >= 3 * min(abs(dx), abs(dy)) - 1
        assert max(abs(dx), abs(dy)) >= 15
        return ("left", "right")[dx > 0] if abs(dx) > abs(dy) else ("up", "down")[dy > 0]
    if found := re.fullmatch(r"How many times did (the .+) flash", text):
        states = only_track(found[1], tracks).states
        assert states[0] is None
        assert states[last] is None
        seen = [state is not None for state in states]
        assert not any(a and b for a, b in itertools.pairwise(seen))
        return str(sum(seen))
    if found := re.fullmatch(r"What came first, (the .+) or (the .+)", text):
        one, other = (only_track(found[i], tracks) for i in (1, 2))
        starts = [next(i for i, s in enumerate(t.states) if s) for t in (one, other)]
        assert starts[0] != starts[1]
        assert min(starts) > 0
        return (one if starts[0] < starts[1] else other).kind
    if text == "Which digit flashed":
        (brief,) = (t for t in tracks if t.kind == "digit" and sum(map(bool, t.states)) == 1)
        return str(next(state.value for state in brief.states if state))
    if found := re.fullmatch(r"What colour did (the .+) become", text):
        states = only_track(found[1], tracks).states
        assert states[0].colour != states[last].colour
        return states[last].colour
    if text == "What appeared at the end":
        (late,) = (t for t in tracks if not any(t.states[: last - 1]))
        assert late.states[last] is not None
        return late.kind
    found = re.fullmatch(r"Did (the .+) vanish", text)
    return "yes" if only_track(found[1], tracks).states[last] is None else "no"
