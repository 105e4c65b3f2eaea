"""Means and ratios over questions, with intervals by a paired bootstrap."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
_PART = 100  # draws that are summed at a time, so that memory stays small


class Interval(NamedTuple):
    """A value between the ends of its 95 % interval."""

    value: float
    low: float
    high: float


class Bootstrap:
    """Draws of questions, with replacement; the same ones for every setting, so pairs stay pairs.

    Questions are drawn within their task; a value is that of each task, then the mean over tasks.

    Parameters
    ----------
    tasks : sequence of str
        The task of each question.
    times : int
        How many draws.
    seed : int
        Another seed, other draws.
    """

    def __init__(self, tasks: Sequence[str], times: int = 2000, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        names = np.asarray(tasks)
        self._draws: list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]] = []
        for task in dict.fromkeys(tasks):
            members = np.flatnonzero(names == task)
            draws = rng.integers(0, len(members), (times, len(members)), dtype=np.int32)
            self._draws.append((members, draws))

    def mean(self, values: Sequence[float]) -> Interval:
        """Return the mean of ``values``, one for each question."""
        every = np.asarray(values, dtype=float)
        parts = [(every[members].mean(), _means(every[members], d)) for members, d in self._draws]
        return _interval([value for value, _ in parts], [drawn for _, drawn in parts])

    def ratio(self, values: Sequence[float], full: Sequence[float]) -> Interval | None:
        """Return the mean of ``values`` over that of ``full``.

        A task whose ``full`` is 0 throughout has no ratio and is left out; None if all are.
        """
        own, whole = np.asarray(values, dtype=float), np.asarray(full, dtype=float)
        parts = [
            (
                own[members].mean() / whole[members].mean(),
                _over(_means(own[members], draws), _means(whole[members], draws)),
            )
            for members, draws in self._draws
            if whole[members].any()
        ]
        if not parts:
            return None
        return _interval([value for value, _ in parts], [drawn for _, drawn in parts])

    def statistic(self, function: Callable[..., Floats], *values: Sequence[float]) -> Interval:
        """Return ``function`` of the means of several ``values``, such as a product of ratios."""
        columns = [np.asarray(one, dtype=float) for one in values]
        parts = [
            (
                function(*(column[members].mean() for column in columns)),
                function(*(_means(column[members], draws) for column in columns)),
            )
            for members, draws in self._draws
        ]
        return _interval([float(value) for value, _ in parts], [drawn for _, drawn in parts])


def _means(values: Floats, draws: npt.NDArray[np.int32]) -> Floats:
    parts = [values[part].mean(axis=1) for part in _parts(draws)]
    return np.concatenate(parts)


def _parts(draws: npt.NDArray[np.int32]) -> Iterator[npt.NDArray[np.int32]]:
    return (draws[start : start + _PART] for start in range(0, len(draws), _PART))


def _over(own: Floats, whole: Floats) -> Floats:
    """Divide; a draw in which the full model was never right says nothing."""
    return np.divide(own, whole, out=np.full_like(own, np.nan), where=whole > 0)


def _interval(values: Sequence[float], drawn: Sequence[Floats]) -> Interval:
    low, high = np.nanpercentile(np.mean(drawn, axis=0), [2.5, 97.5])
    return Interval(float(np.mean(values)), float(low), float(high))
