"""Scores of single answers, against figures worked out by hand and the published definitions."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lftr.lab.scoring.metrics import (
    METRICS,
    agreement,
    anls,
    check_scored,
    exact,
    get_metric,
    levenshtein,
    multiple_choice,
    pick_choice,
    verdict,
    yes_no,
)
from lftr.lab.scoring.vqa import CONTRACTIONS, vqa_normalise, vqa_soft
from lftr.values.errors import ArgumentError


@pytest.mark.parametrize(
    ("answer", "answers", "score"),
    [
        (" Red. ", ["red"], 1),
        ("red", ["blue", "RED"], 1),
        ("dark red", ["red"], 0),
        ("", ["red"], 0),
    ],
)
def test_exact(answer, answers, score):
    assert exact(answer, answers) == score


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("The two dogs.", "2 dogs"),
        ("a cat, a dog", "cat dog"),
        ("1,000", "1000"),
        ("red/blue", "red blue"),
        ("1.5 m.", "1.5 m"),
        ("dont know", "don't know"),
        ("Its a couldntve couldn'tve", "its couldntve couldn't've"),
        ("none", "0"),
        ("what?", "what"),
        ("New\nYork\t", "new york"),
        ("somebody'd", "somebodyd"),
    ],
)
def test_vqa_normalises_as_its_server(said, meant):
    assert vqa_normalise(said) == meant


def test_contractions_lack_one_apostrophe():
    for wrong, right in CONTRACTIONS.items():
        assert wrong == "somebody'd" or len(wrong) == len(right) - 1
        assert wrong.replace("'", "") == right.replace("'", "")


@pytest.mark.parametrize(
    ("matches", "score"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)]
)
def test_vqa_soft_of_ten_people(matches, score):
    """The values that the VQA paper's leave-one-out average is known for."""
    answers = ["yes"] * matches + [f"other {i}" for i in range(10 - matches)]
    assert vqa_soft("Yes.", answers) == pytest.approx(score)


@given(st.lists(st.sampled_from(["a b", "2", "two", "cat"]), min_size=4, max_size=12))
def test_vqa_soft_is_the_mean_over_all_but_one(people):
    said = "2"
    scores = []
    for left_out in range(len(people)):
        others = [vqa_normalise(p) for i, p in enumerate(people) if i != left_out]
        scores.append(min(1, others.count(said) / 3))
    assert vqa_soft(said, people) == pytest.approx(sum(scores) / len(scores))


def test_vqa_soft_of_fewer_than_four_takes_one_match():
    assert vqa_soft("two", ["2"]) == 1
    assert vqa_soft("2", ["1", "two", "3"]) == 1
    assert vqa_soft("4", ["1", "two", "3"]) == 0


def test_levenshtein_is_the_fewest_edits():
    def slow(one, other):
        if not one or not other:
            return len(one) + len(other)
        changed = slow(one[1:], other[1:]) + (one[0] != other[0])
        return min(changed, slow(one[1:], other) + 1, slow(one, other[1:]) + 1)

    for one, other in itertools.product(["", "a", "ab", "ba", "kitten", "sitting"], repeat=2):
        assert levenshtein(one, other) == slow(one, other)


@pytest.mark.parametrize(
    ("answer", "answers", "score"),
    [
        ("Helo", ["hello"], 0.8),
        ("he", ["hello"], 0.0),  # 0.4 is another word
        ("hel", ["hello", "help"], 0.75),
        ("two  words", ["two words"], 1.0),
        ("", [""], 1.0),
    ],
)
def test_anls(answer, answers, score):
    assert anls(answer, answers) == pytest.approx(score)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("Yes", "yes"),
        ("yes, there is a dog", "yes"),
        ("No, there is no dog.", "no"),
        ("There is not. Yes.", "no"),
        ("A dog. Yes", ""),
        ("nothing", ""),
        ("red", ""),
    ],
)
def test_verdict(answer, said):
    assert verdict(answer) == said
    assert yes_no(answer, ["yes."]) == float(said == "yes")


@pytest.mark.parametrize(
    ("answer", "pick"),
    [
        ("B", 1),
        ("(b)", 1),
        ("B. a cat", 1),
        ("C: whatever", 2),
        ("a cat", 1),
        ("The answer is (C)", 2),
        ("It is a cat on a mat", 1),
        ("a dog and a cat", None),
        ("A dog", 0),
        ("A", 0),
        ("E", None),
        ("", None),
        ("no idea", None),
        ("It is a cat, I think", 1),
    ],
)
def test_what_an_answer_picks(answer, pick):
    assert pick_choice(answer, ["a dog", "a cat", "a bird"]) == pick


def test_a_choice_inside_another_does_not_count():
    assert pick_choice("I see a black cat here", ["cat", "black cat", "dog"]) == 1
    assert pick_choice("I see a cat here", ["cat", "black cat", "dog"]) == 0
    assert pick_choice("a black cat and a dog", ["cat", "black cat", "dog"]) is None


@pytest.mark.parametrize(
    ("metric", "answers", "choices", "said"),
    [
        ("choice", ["B"], [], "choices = []"),
        ("choice", ["green"], ["red", "blue"], "answers = ['green']"),
        ("yesno", ["red"], [], "answers = ['red']"),
    ],
    ids=["no choices", "none of the choices", "neither yes nor no"],
)
def test_answers_that_nobody_could_give_are_refused(metric, answers, choices, said):
    with pytest.raises(ArgumentError, match=re.escape(said)):
        check_scored(metric, answers, choices)
    check_scored("exact", answers, choices)


def test_answers_that_can_be_scored_pass():
    check_scored("choice", ["B"], ["red", "blue"])
    check_scored("yesno", ["No."], [])


def test_multiple_choice_takes_letters_and_words_on_both_sides():
    choices = ["red", "blue"]
    for answer, right in itertools.product(["B", "blue", "b)"], ["B", "blue"]):
        assert multiple_choice(answer, [right], choices) == 1
        assert multiple_choice("A", [right], choices) == 0
    assert multiple_choice("(B)", ["B"], []) == 1
    assert multiple_choice("neither", ["B"], choices) == 0


def test_every_metric_is_from_0_to_1_and_knows_a_right_answer():
    for name in METRICS:
        metric = get_metric(name)
        assert metric("yes", ["yes"] * 10, ["yes", "no"]) == 1
        assert metric("no", ["yes"] * 10, ["yes", "no"]) == 0


def test_an_unknown_metric_names_the_known():
    with pytest.raises(ArgumentError, match=re.escape("did you mean 'exact'")):
        get_metric("exat")


def test_agreement_is_of_the_same_words():
    assert agreement(["a", "b"], ["a", "c"]) == [1.0, 0.0]
    with pytest.raises(ValueError, match=r"longer"):
        agreement(["a"], ["a", "b"])
