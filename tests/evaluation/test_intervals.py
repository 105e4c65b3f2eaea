"""Intervals: paired, seeded, of the right width, task by task."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import precision_recall_fscore_support

from lftr.evaluation import Bootstrap, Hallucination


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
    """Two settings that fail on the same questions differ by nothing, however few the questions."""
    values = [1.0, 0.0, 1.0, 1.0, 0.0, 1.0] * 5
    found = Bootstrap(["one"] * 30).ratio(values, values)
    assert found == (1.0, 1.0, 1.0)
    worse = [value * (i % 5 > 0) for i, value in enumerate(values)]
    found = Bootstrap(["one"] * 30).ratio(worse, values)
    assert found is not None
    assert found.low < found.value < found.high <= 1


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
