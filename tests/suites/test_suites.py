"""What holds for every suite: the same for everyone, apart between splits, fair, unambiguous."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

from lftr import suites
from lftr.lab.suites import digits
from lftr.lab.suites.example import normalise
from lftr.lab.suites.layout import COLOURS
from lftr.lab.suites.render import mask
from lftr.values.errors import ArgumentError, MissingExtraError

from .support import SUITES, digest


@pytest.fixture(scope="module", params=SUITES.values(), ids=SUITES)
def suite(request):
    return request.param


@pytest.fixture(scope="module")
def examples(suite):
    return list(suite.load(suite.n))


# The same for everyone


def test_same_call_same_examples(suite, examples):
    again = suite.load(suite.n + 5)
    assert digest(again[: suite.n]) == digest(examples)
    assert again[-6] == examples[-1]
    assert len(again) == suite.n + 5


def test_drawing_pictures_does_not_change_the_questions(suite, examples):
    for example, (objects, question) in zip(examples, suite.drawn(n=suite.n), strict=True):
        assert (example.objects, example.question) == (objects, question.text)


@pytest.mark.slow
def test_does_not_depend_on_the_process(suite, examples):
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parents[1])!r})\n"
        "from suites.support import SUITES, digest\n"
        f"print(digest(SUITES[{suite.name!r}].load({suite.n // 4})))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "12345"}
    told = subprocess.check_output([sys.executable, "-c", code], env=environment, text=True)
    assert told.strip() == digest(examples[: suite.n // 4])


def test_index_beyond_the_end(suite):
    with pytest.raises(IndexError):
        suite.load(3)[3]


# Splits


@pytest.mark.slow
def test_no_digit_is_in_two_splits(suite):
    pools = {
        split: {sample for value in range(10) for sample in digits.samples(split, value)}
        for split in suites.SPLITS
    }
    assert sum(map(len, pools.values())) == len(set().union(*pools.values())) == 1797
    for split in suites.SPLITS:
        used = {
            thing.sample
            for objects, _ in suite.drawn(split, 400)
            for shown in suite.shown(objects)
            for thing in shown
        } - {None}
        assert used
        assert used <= pools[split]


@pytest.mark.slow
def test_nothing_is_in_two_splits_or_seeds(suite):
    found = [
        tuple(
            tuple((o.kind, o.colour, o.x, o.y, o.size) for o in shown)
            for shown in suite.shown(objects)
        )
        for split in suites.SPLITS
        for seed in (0, 1)
        for objects, _ in suite.drawn(split, 400, seed)
    ]
    assert len(set(found)) == len(found)


# Fair


def test_categories_take_turns(suite, examples):
    turns = suite.n // len(suite.categories)
    assert [example.category for example in examples] == [*suite.categories] * turns


@pytest.mark.slow
def test_a_reader_without_eyes_does_badly(suite):
    """The most frequent training answer to each very question, asked again on the test split."""
    seen: dict[str, Counter] = defaultdict(Counter)
    usual: dict[str, Counter] = defaultdict(Counter)
    for _, question in suite.drawn("train", suite.asked):
        seen[question.text][question.answer] += 1
        usual[question.category][question.answer] += 1
    right = defaultdict(list)
    for _, question in suite.drawn("test"):
        known = seen[question.text] or usual[question.category]
        right[question.category].append(known.most_common(1)[0][0] == question.answer)
    shares = {category: sum(hits) / len(hits) for category, hits in right.items()}
    assert max(shares.values()) < 0.65
    assert sum(shares.values()) / len(shares) < suite.blind


# Unambiguous


def test_every_question_has_exactly_the_given_answer(suite):
    for objects, question in suite.drawn(n=suite.asked):
        assert suite.solve(question.text, objects) == question.answer, (question, objects)
        assert question.answer in question.choices
        assert all(0 <= i < len(objects) for i in question.referents)


def test_objects_keep_apart_and_inside(suite):
    fewest, most = suite.objects
    for objects, _ in suite.drawn(n=500):
        assert fewest <= len(objects) <= most
        for shown in suite.shown(objects):
            for i, one in enumerate(shown):
                assert min(one.box) > 0
                assert max(one.box) < suite.side
                for other in shown[:i]:
                    apart = max(abs(one.x - other.x), abs(one.y - other.y))
                    assert apart > (one.size + other.size) / 2


# What is drawn


def test_pictures_are_what_a_model_expects(suite, examples):
    for example in examples:
        assert len(example.images) == suite.images
        assert {image.size for image in example.images} == {(suite.side, suite.side)}
        assert {image.mode for image in example.images} == {"RGB"}


def test_objects_are_painted_in_their_colour_where_they_are(suite, examples):
    for example in examples[:56]:
        for image, shown in zip(example.images, suite.shown(example.objects), strict=True):
            pixels = np.asarray(image, np.float32)
            for thing in shown:
                alpha, left, top = mask(thing)
                window = pixels[top : top + thing.size, left : left + thing.size]
                inside = window[alpha > 0.95].mean(0)
                assert np.abs(inside - COLOURS[thing.colour]).max() < 45


# Use


def test_answers_compare_by_what_they_say(examples):
    assert examples[0].is_correct(f" {examples[0].answer.upper()}. ")
    assert not examples[0].is_correct("a guess")


@pytest.mark.parametrize(("said", "meant"), [(" Red.\n", "red"), ("top-left", "Top-Left")])
def test_what_does_not_count_in_an_answer(said, meant):
    assert normalise(said) == normalise(meant)


@pytest.mark.parametrize("bad", [{"split": "tset"}, {"n": -1}, {"seed": -1}], ids=str)
def test_bad_arguments_name_what_is_allowed(suite, bad):
    (value,) = bad.values()
    with pytest.raises(ArgumentError, match=str(value)):
        suites.load(suite.name, **bad)


def test_an_unknown_suite():
    with pytest.raises(ArgumentError, match=r"'scense'; did you mean 'scenes'"):
        suites.load("scense")


def test_without_scikit_learn_one_line_says_what_to_install(suite, monkeypatch):
    digits._samples.cache_clear()
    digits.samples.cache_clear()
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(MissingExtraError, match="pip install scikit-learn"):
        list(suite.load(8))
    monkeypatch.undo()
    digits._samples.cache_clear()
