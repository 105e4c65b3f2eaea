"""Means and ratios over questions, with 95 % intervals by a paired bootstrap."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Float64Array = npt.NDArray[np.float64]
_PART = 100  # draws that are summed at a time, so that memory stays small
_TAIL = 0.025  # of a 95 % interval, on each side


class Interval(NamedTuple):
    """A value and the ends of its 95 % interval."""

    value: float
    low: float
    high: float


ITSELF = Interval(1.0, 1.0, 1.0)  # of the full model relative to itself, by definition


def interval_fields(name: str, value: Interval | None) -> dict[str, float | None]:
    """Return a value as ``name`` and the ends of its interval as ``name_low`` and ``name_high``."""
    ends = value or (None, None, None)
    return dict(zip((name, f"{name}_low", f"{name}_high"), ends, strict=True))


class Bootstrap:
    """Bootstrap samples of questions, the same for every setting, so that comparisons are paired.

    Dependent questions, such as those about one image, form a group. Groups are drawn within their
    task; a value is computed for each task, then averaged over the tasks.

    A bootstrap only draws observed questions, so ten right answers of ten would have no interval.
    But a kind of question with a share of ``1 - 0.025 ** (1 / n)`` is absent from ``n`` groups with
    a probability of 2.5 %. So an interval is at least as wide as such a share could move the value
    in each direction. If all values are 0, or all 1, its ends are those of Clopper and Pearson
    (Biometrika 26, 1934), close to the rule of three. The tasks' contributions to the width are
    treated as independent.

    Parameters
    ----------
    tasks : sequence of str
        The task of each question.
    groups : sequence of str, optional
        Group of each question, such as its image; by default every question is a group.
    times : int
        Number of bootstrap samples.
    seed : int
        Seed of the samples.
    """

    def __init__(
        self,
        tasks: Sequence[str],
        groups: Sequence[str] | None = None,
        *,
        times: int = 2000,
        seed: int = 0,
    ) -> None:
        rng = np.random.default_rng(seed)
        names = np.asarray(tasks)
        belongs = np.arange(len(tasks)) if groups is None else np.asarray(groups)
        self._tasks: list[_Task] = []
        for task in dict.fromkeys(tasks):
            members = np.flatnonzero(names == task)
            distinct, group = np.unique(belongs[members], return_inverse=True)
            draws = rng.integers(0, len(distinct), (times, len(distinct)), dtype=np.int32)
            self._tasks.append(_Task(members, group, draws))

    def mean(
        self, values: Sequence[float], bounds: tuple[float, float] | None = (0.0, 1.0)
    ) -> Interval:
        """Return the mean of ``values``, one for each question.

        Parameters
        ----------
        bounds : tuple of float, optional
            Smallest and largest possible value of a question; with None the interval is that of the
            bootstrap alone.
        """
        parts = []
        for task in self._tasks:
            value, drawn = task.means(values)
            low, high = bounds or (value, value)
            ends = (value + task.unseen * (end - value) for end in (low, high))
            parts.append(_Part(value, drawn, *ends))
        return _interval(parts)

    def ratio(self, values: Sequence[float], full: Sequence[float]) -> Interval | None:
        """Return the mean of ``values`` over that of ``full``, both in [0, 1].

        A task whose ``full`` is 0 everywhere has no ratio and is left out; None if all are. There
        is no upper bound, since ``values`` may be better than ``full``.
        """
        parts = []
        for task in self._tasks:
            (value, drawn), (whole, drawn_whole) = task.means(values), task.means(full)
            if whole > 0:
                odds = task.unseen / (1.0 - task.unseen)
                # unobserved questions: right with the full model alone, or with this setting alone
                low, high = value / (whole + odds), (value + odds) / whole
                parts.append(_Part(value / whole, _divide(drawn, drawn_whole), low, high))
        return _interval(parts) if parts else None

    def statistic(
        self, function: Callable[..., Float64Array], *values: Sequence[float]
    ) -> Interval:
        """Return ``function`` of the means of several ``values``, such as a product of ratios.

        The interval is that of the bootstrap alone.
        """
        parts = []
        for task in self._tasks:
            means = [task.means(column) for column in values]
            value = float(function(*(mean for mean, _ in means)))
            parts.append(_Part(value, function(*(drawn for _, drawn in means)), value, value))
        return _interval(parts)


@dataclass(frozen=True)
class _Task:
    """Questions of one task, the group of each, and bootstrap samples of groups."""

    members: npt.NDArray[np.int64]
    group: npt.NDArray[np.int64]
    draws: npt.NDArray[np.int32]

    @property
    def unseen(self) -> float:
        """Largest share of groups of a kind that may be absent from the observed ones."""
        return float(1.0 - _TAIL ** (1.0 / self.draws.shape[1]))

    def means(self, values: Sequence[float]) -> tuple[float, Float64Array]:
        """Return the mean over the questions, and over those of each sample."""
        selected = np.asarray(values, dtype=float)[self.members]
        sums, sizes = np.bincount(self.group, selected), np.bincount(self.group)
        drawn = [sums[d].sum(axis=1) / sizes[d].sum(axis=1) for d in _parts(self.draws)]
        return float(selected.mean()), np.concatenate(drawn)


class _Part(NamedTuple):
    """A task's value, its samples, and its smallest interval."""

    value: float
    drawn: Float64Array
    low: float
    high: float


def _parts(draws: npt.NDArray[np.int32]) -> Iterator[npt.NDArray[np.int32]]:
    return (draws[start : start + _PART] for start in range(0, len(draws), _PART))


def _divide(reduced: Float64Array, full: Float64Array) -> Float64Array:
    """Divide; a sample in which the full model was never right is NaN."""
    return np.divide(reduced, full, out=np.full_like(reduced, np.nan), where=full > 0)


def _interval(parts: Sequence[_Part]) -> Interval:
    value = float(np.mean([part.value for part in parts]))
    drawn = np.mean([part.drawn for part in parts], axis=0)
    low, high = np.nanquantile(drawn, [_TAIL, 1.0 - _TAIL])
    below = np.linalg.norm([part.value - part.low for part in parts]) / len(parts)
    above = np.linalg.norm([part.high - part.value for part in parts]) / len(parts)
    return Interval(value, float(min(low, value - below)), float(max(high, value + above)))
