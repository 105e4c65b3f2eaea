"""The scenes suite: the same for everyone, apart between splits, fair and unambiguous."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from collections import Counter, defaultdict

import numpy as np
import pytest

from lftr import suites
from lftr.errors import ArgumentError, MissingExtraError
from lftr.suites import digits
from lftr.suites.example import normalise
from lftr.suites.layout import COLOURS, KINDS, SIDE
from lftr.suites.render import mask, render
from lftr.suites.scenes import draw

N = 240


@pytest.fixture(scope="module")
def examples():
    return list(suites.load("scenes", split="test", n=N))


def drawn(split="test", n=4000, seed=0):
    """Questions alone, without the time that drawing pictures takes."""
    for i in range(n):
        rng = np.random.default_rng([suites.SPLITS.index(split), seed, i])
        yield draw(rng, split, suites.CATEGORIES[i % len(suites.CATEGORIES)])


def digest(examples):
    told = hashlib.sha256()
    for example in examples:
        told.update(example.image.tobytes() + f"{example.question}{example.answer}".encode())
    return told.hexdigest()


# The same for everyone


def test_same_call_same_examples(examples):
    again = suites.load("scenes", split="test", n=N + 5)
    assert digest(again[:N]) == digest(examples)
    assert again[-6] == examples[-1]
    assert len(again) == N + 5


def test_does_not_depend_on_the_process(examples):
    code = (
        "import sys; sys.path.insert(0, 'tests/suites')\n"
        "from test_scenes import digest; from lftr import suites\n"
        "print(digest(suites.load(n=40)))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "12345"}
    told = subprocess.check_output([sys.executable, "-c", code], env=environment, text=True)
    assert told.strip() == digest(examples[:40])


def test_index_beyond_the_end():
    with pytest.raises(IndexError):
        suites.load(n=3)[3]


# Splits


def test_no_digit_is_in_two_splits():
    pools = {
        split: {sample for value in range(10) for sample in digits.samples(split, value)}
        for split in suites.SPLITS
    }
    assert sum(map(len, pools.values())) == len(set().union(*pools.values())) == 1797
    for split in suites.SPLITS:
        used = {o.sample for objects, _ in drawn(split, 400) for o in objects} - {None}
        assert used <= pools[split]


def test_no_scene_is_in_two_splits_or_seeds():
    scenes = [
        objects
        for split in suites.SPLITS
        for seed in (0, 1)
        for objects, _ in drawn(split, 500, seed)
    ]
    shapes = [tuple((o.kind, o.colour, o.x, o.y, o.size) for o in objects) for objects in scenes]
    assert len(set(shapes)) == len(shapes)


# Fair


def test_categories_take_turns(examples):
    assert set(Counter(e.category for e in examples).values()) == {N // len(suites.CATEGORIES)}


def test_a_reader_without_eyes_does_badly():
    """The most frequent training answer to each very question, asked again on the test split."""
    seen: dict[str, Counter] = defaultdict(Counter)
    usual: dict[str, Counter] = defaultdict(Counter)
    for _, question in drawn("train", 3000):
        seen[question.text][question.answer] += 1
        usual[question.category][question.answer] += 1
    right = defaultdict(list)
    for _, question in drawn("test", 1200):
        known = seen[question.text] or usual[question.category]
        right[question.category].append(known.most_common(1)[0][0] == question.answer)
    shares = {category: sum(hits) / len(hits) for category, hits in right.items()}
    assert max(shares.values()) < 0.65
    assert sum(shares.values()) / len(shares) < 0.32


def test_answers_are_balanced():
    answers = defaultdict(Counter)
    for _, question in drawn(n=4000):
        answers[question.category][question.answer] += 1
    for category, found in answers.items():
        if category != "comparison":
            most, least = max(found.values()), min(found.values())
            assert most < 1.8 * least, (category, found)
    yes = answers["existence"]["yes"] / answers["existence"].total()
    assert 0.47 < yes < 0.53


# Unambiguous


def fitting(text, objects):
    """Objects that ``the red circle``, ``the circle`` or ``the red object`` can mean."""
    *_, noun = words = text.split()
    kind = None if noun == "object" else noun
    colour = words[-2] if words[-2] in COLOURS else None
    return [o for o in objects if kind in (None, o.kind) and colour in (None, o.colour)]


def only(text, objects):
    (found,) = fitting(text, objects)
    return found


def solve(question, objects):
    """Answer from the symbols, by reading the question: knows nothing of how it was made."""
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


def test_every_question_has_exactly_the_given_answer():
    for objects, question in drawn(n=2400):
        assert solve(question.text, objects) == question.answer, (question, objects)
        assert question.answer in question.choices
        assert all(0 <= i < len(objects) for i in question.referents)


def test_objects_keep_apart_and_inside():
    for objects, _ in drawn(n=500):
        assert 2 <= len(objects) <= 8
        for i, one in enumerate(objects):
            left, top, right, bottom = one.box
            assert min(left, top) > 0
            assert max(right, bottom) < SIDE
            for other in objects[:i]:
                apart = max(abs(one.x - other.x), abs(one.y - other.y))
                assert apart > (one.size + other.size) / 2


# What is drawn


def test_pictures_are_what_a_model_expects(examples):
    for example in examples[:8]:
        assert example.image.mode == "RGB"
        assert example.image.size == (SIDE, SIDE)


def test_objects_are_painted_in_their_colour(examples):
    for example in examples[:40]:
        pixels = np.asarray(example.image, np.float32)
        for thing in example.objects:
            alpha, left, top = mask(thing)
            window = pixels[top : top + thing.size, left : left + thing.size]
            inside = window[alpha > 0.95].mean(0)
            assert np.abs(inside - COLOURS[thing.colour]).max() < 45


def test_an_empty_scene_can_be_drawn():
    assert render((), np.random.default_rng(0)).shape == (SIDE, SIDE, 3)


# Use


@pytest.mark.parametrize(("said", "meant"), [(" Red.\n", "red"), ("top-left", "Top-Left")])
def test_answers_compare_by_what_they_say(examples, said, meant):
    assert normalise(said) == normalise(meant)
    assert examples[0].is_correct(f" {examples[0].answer.upper()}. ")
    assert not examples[0].is_correct("a guess")


@pytest.mark.parametrize(
    "bad", [{"name": "scense"}, {"split": "tset"}, {"n": -1}, {"seed": -1}], ids=str
)
def test_bad_arguments_name_what_is_allowed(bad):
    (value,) = bad.values()
    with pytest.raises(ArgumentError, match=str(value)):
        suites.load(**bad)


def test_without_scikit_learn_one_line_says_what_to_install(monkeypatch):
    digits._samples.cache_clear()
    digits.samples.cache_clear()
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(MissingExtraError, match="pip install scikit-learn"):
        list(suites.load(n=8))
    monkeypatch.undo()
    digits._samples.cache_clear()
