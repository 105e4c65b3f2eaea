"""The sequential test itself, by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lftr.lab.tuning.betting import Bets, least_values

RUNS, LENGTH = 2000, 400


def paths(bound: float, values: np.ndarray) -> np.ndarray:
    """Fastest way to the same sums: what the bettors have after every value, as a logarithm."""
    factors = np.asarray(Bets(bound)._factors)
    with np.errstate(divide="ignore"):
        steps = np.log(values[..., None] * factors[:, 0] + (1 - values[..., None]) * factors[:, 1])
    sums = steps.cumsum(axis=-2) - math.log(len(factors))
    return np.logaddexp.reduce(sums, axis=-1)


def errors(bound: float, values: np.ndarray, alpha: float) -> float:
    return float((paths(bound, values).max(axis=1) >= -math.log(alpha)).mean())


def drawn(kind: str, mean: float) -> np.ndarray:
    rng = np.random.default_rng(0)
    if kind == "answers":
        return (rng.random((RUNS, LENGTH)) < mean).astype(float)
    if kind == "shares of four":
        return rng.binomial(4, mean, (RUNS, LENGTH)) / 4
    if kind == "wild after agreement":  # how values spread depends on the past, their mean does not
        wild = rng.random((RUNS, LENGTH)) < mean
        return np.where(np.roll(wild, 1, axis=1), wild, mean)
    raise AssertionError(kind)


@pytest.mark.parametrize("kind", ["answers", "shares of four", "wild after agreement"])
@pytest.mark.parametrize("alpha", [0.05, 0.2])
@pytest.mark.parametrize("bound", [0.8, 0.95])
def test_a_mean_at_the_bound_is_seldom_taken_to_be_above_it(bound, alpha, kind):
    """However often one looks: the worst case, at the bound itself."""
    rate = errors(bound, drawn(kind, bound), alpha)
    assert rate <= alpha + 3 * math.sqrt(alpha * (1 - alpha) / RUNS)


@pytest.mark.parametrize("bound", [0.8, 0.95])
def test_a_mean_above_the_bound_is_found(bound):
    assert errors(bound, drawn("answers", bound + 0.8 * (1 - bound)), 0.05) > 0.9


def test_looking_often_would_break_a_test_for_one_look():
    """The control: a bound for one number of answers errs far too often after every answer."""
    from scipy.stats import binom

    values = drawn("answers", 0.8)
    seen = np.arange(1, LENGTH + 1)
    tails = binom.sf(values.cumsum(axis=1) - 1, seen, 0.8)
    assert float((tails.min(axis=1) <= 0.05).mean()) > 0.1


def test_values_one_by_one_are_the_paths():
    values = drawn("shares of four", 0.9)[0, :50]
    bets = Bets(0.8)
    for value in values:
        bets.add(float(value))
    assert bets.log == pytest.approx(paths(0.8, values[None])[0, -1])


@pytest.mark.parametrize(("bound", "alpha"), [(0.9, 0.1), (0.95, 0.05), (0.99, 0.01)])
def test_the_least_number_is_the_least(bound, alpha):
    needed = least_values(bound, alpha)
    assert needed >= math.log(alpha) / math.log(bound)  # fewer answers show it by no valid test
    for count, enough in ((needed, True), (needed - 1, False)):
        bets = Bets(bound)
        for _ in range(count):
            bets.add(1.0)
        assert bets.beyond(alpha) == enough


def test_reach_counts_what_is_left():
    bets = Bets(0.8)
    for _ in range(5):
        bets.add(1.0)
    bets.add(0.0)
    left = next(n for n in range(100) if bets.within_reach(0.1, n))
    for _ in range(left - 1):
        bets.add(1.0)
    assert not bets.beyond(0.1)
    bets.add(1.0)
    assert bets.beyond(0.1)
