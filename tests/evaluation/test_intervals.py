"""Intervals: paired, seeded, of the right width, task by task."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import precision_recall_fscore_support

from lftr.lab.evaluation import Bootstrap, Hallucination


def test_the_draws_are_those_of_the_measured_tables():
    """As benchmarks/ drew them before this was the one place: whole rows of 64-bit integers."""
    values = np.random.default_rng(1).random(137)
    draws = np.random.default_rng(0).integers(0, 137, (2000, 137))
    low, high = np.percentile(values[draws].mean(axis=1), [2.5, 97.5])
    found = Bootstrap(["one"] * 137).mean(values.tolist())
    assert found == pytest.approx((values.mean(), low, high))


def test_an_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        values = (rng.random(100) < 0.7).astype(float)
        found = Bootstrap(["one"] * 100, times=400).mean(values.tolist())
        covered += found.low <= 0.7 <= found.high
    assert 180 <= covered <= 198


def test_a_ratio_is_paired():
    """Two settings that fail on the same questions differ by no more than what was not seen."""
    values = [1.0, 0.0, 1.0, 1.0, 0.0, 1.0] * 5
    found = Bootstrap(["one"] * 30).ratio(values, values)
    unseen = 1 - 0.025 ** (1 / 30)
    right = (1 - unseen) * 2 / 3
    assert found == pytest.approx((1.0, right / (right + unseen), (right + unseen) / right))
    worse = [value * (i % 5 > 0) for i, value in enumerate(values)]
    found = Bootstrap(["one"] * 30).ratio(worse, values)
    assert found is not None
    assert found.low < found.value < found.high <= 1
    unpaired = Bootstrap(["one"] * 30).ratio(worse[1:] + worse[:1], values)
    assert unpaired is not None
    assert unpaired.high - unpaired.low > found.high - found.low


def test_two_questions_say_little():
    """A relative score has no upper bound: of two images, one may hide most of either score."""
    found = Bootstrap(["one"] * 2).ratio([1.0, 1.0], [1.0, 1.0])
    assert found == pytest.approx((1, 0.025**0.5, 0.025**-0.5))
    assert [f"{100 * end:.0f}" for end in found] == ["100", "16", "632"]


@pytest.mark.parametrize("n", [1, 10, 300])
def test_what_is_perfect_is_not_certain(n):
    """Clopper and Pearson's ends where all are alike; a bootstrap draws nothing else."""
    bootstrap = Bootstrap(["one"] * n)
    assert bootstrap.mean([1.0] * n) == pytest.approx((1, 0.025 ** (1 / n), 1))
    assert bootstrap.mean([0.0] * n) == pytest.approx((0, 0, 1 - 0.025 ** (1 / n)))
    assert bootstrap.mean([0.0] * n, bounds=(-1.0, 1.0)).low == pytest.approx(0.025 ** (1 / n) - 1)
    assert bootstrap.mean([7.0] * n, bounds=None) == (7, 7, 7)


def test_tasks_add_to_what_may_not_have_been_seen_as_independent_ones_do():
    tasks = ["a"] * 50 + ["b"] * 50
    one = 1 - Bootstrap(["a"] * 50).mean([1.0] * 50).low
    assert 1 - Bootstrap(tasks).mean([1.0] * 100).low == pytest.approx(one / 2**0.5)


def test_questions_about_one_image_are_drawn_together():
    """Ten times the same question is no more than the question once."""
    values = (np.random.default_rng(0).random(40) < 0.7).astype(float)
    images = [f"{i}.png" for i in range(40)]
    once = Bootstrap(["one"] * 40).mean(values.tolist())
    grouped = Bootstrap(["one"] * 400, np.repeat(images, 10).tolist())
    together = grouped.mean(np.repeat(values, 10).tolist())
    alone = Bootstrap(["one"] * 400).mean(np.repeat(values, 10).tolist())
    assert together.high - together.low == pytest.approx(once.high - once.low, rel=0.1)
    assert alone.high - alone.low < 0.5 * (together.high - together.low)
    assert grouped.mean([1.0] * 400).low == pytest.approx(0.025 ** (1 / 40))


def test_a_ratio_is_of_each_task_and_then_the_mean():
    tasks = ["small"] * 2 + ["large"] * 8
    full = [1.0, 1.0] + [1.0, 0.0] * 4
    own = [1.0, 0.0] + [1.0, 0.0] * 4
    found = Bootstrap(tasks).ratio(own, full)
    assert found is not None
    assert found.value == pytest.approx((0.5 + 1.0) / 2)
    assert Bootstrap(tasks).mean(own).value == pytest.approx((0.5 + 0.5) / 2)


def test_a_task_that_the_full_model_never_solves_has_no_ratio():
    assert Bootstrap(["one"] * 3).ratio([1.0, 0.0, 0.0], [0.0] * 3) is None
    tasks = ["hopeless", "hopeless", "fair", "fair"]
    found = Bootstrap(tasks).ratio([1.0, 1.0, 1.0, 0.0], [0.0, 0.0, 1.0, 1.0])
    assert found is not None
    assert found.value == 0.5


def test_hallucination_is_as_scikit_learn_counts():
    rng = np.random.default_rng(0)
    answers = [["yes", "no"][i] for i in rng.integers(0, 2, 60)]
    truths = [["yes", "no"][i] for i in rng.integers(0, 2, 60)]
    found = Hallucination.of([f"{a.title()}, it is." for a in answers], truths)
    precision, recall, f1, _ = precision_recall_fscore_support(
        truths, answers, pos_label="yes", average="binary"
    )
    assert (found.precision, found.recall, found.f1) == pytest.approx((precision, recall, f1))
    assert found.accuracy == np.mean([a == t for a, t in zip(answers, truths, strict=True)])
    assert found.yes_rate == answers.count("yes") / 60


def test_an_answer_that_is_neither_yes_nor_no_is_wrong():
    found = Hallucination.of(["red", "yes"], ["no", "no"])
    assert (found.accuracy, found.yes_rate, found.precision, found.f1) == (0, 0.5, 0, 0)
