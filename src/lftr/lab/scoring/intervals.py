"""Means and ratios over questions, with intervals by a paired bootstrap that knows its limits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
_PART = 100  # draws that are summed at a time, so that memory stays small
_TAIL = 0.025  # of a 95 % interval, on each side


class Interval(NamedTuple):
    """A value between the ends of its 95 % interval."""

    value: float
    low: float
    high: float


ITSELF = Interval(1.0, 1.0, 1.0)  # what the full model is beside itself, by definition


def spread(name: str, value: Interval | None) -> dict[str, float | None]:
    """Return a value as ``name`` and its ends as ``name_low`` and ``name_high``."""
    ends = value or (None, None, None)
    return dict(zip((name, f"{name}_low", f"{name}_high"), ends, strict=True))


class Bootstrap:
    """Draws of questions, with replacement; the same ones for every setting, so pairs stay pairs.

    Questions that go wrong together, as those about one image, are drawn together: groups are drawn
    within their task. A value is that of each task, then the mean over tasks.

    A bootstrap draws what was seen, and so takes ten right answers of ten for certain. But
    questions of a kind that none of ``n`` groups shows may well exist: were their share
    ``1 - 0.025 ** (1 / n)``, they would be missed once in forty times. So an interval is at least
    as wide as such a share could move the value in each direction. For zeros or ones that are all
    alike its ends are those of Clopper and Pearson (Biometrika 26, 1934), near to the rule of
    three. What the tasks add to the width is taken for independent.

    Parameters
    ----------
    tasks : sequence of str
        The task of each question.
    groups : sequence of str, optional
        What each question belongs to, such as its image; by default each stands alone.
    times : int
        How many draws.
    seed : int
        Another seed, other draws.
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
            found, group = np.unique(belongs[members], return_inverse=True)
            draws = rng.integers(0, len(found), (times, len(found)), dtype=np.int32)
            self._tasks.append(_Task(members, group, draws))

    def mean(
        self, values: Sequence[float], bounds: tuple[float, float] | None = (0.0, 1.0)
    ) -> Interval:
        """Return the mean of ``values``, one for each question.

        Parameters
        ----------
        bounds : tuple of float, optional
            The least and the most that a question can have; without, the bootstrap alone decides.
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

        A task whose ``full`` is 0 throughout has no ratio and is left out; None if all are. There
        is no upper bound: ``values`` may well be better, and of a few groups none may show where.
        """
        parts = []
        for task in self._tasks:
            (own, drawn), (whole, drawn_whole) = task.means(values), task.means(full)
            if whole > 0:
                odds = task.unseen / (1.0 - task.unseen)
                low, high = own / (whole + odds), (own + odds) / whole  # only full, or only own
                parts.append(_Part(own / whole, _over(drawn, drawn_whole), low, high))
        return _interval(parts) if parts else None

    def statistic(self, function: Callable[..., Floats], *values: Sequence[float]) -> Interval:
        """Return ``function`` of the means of several ``values``, such as a product of ratios.

        The bootstrap alone decides its interval.
        """
        parts = []
        for task in self._tasks:
            means = [task.means(column) for column in values]
            value = float(function(*(mean for mean, _ in means)))
            parts.append(_Part(value, function(*(drawn for _, drawn in means)), value, value))
        return _interval(parts)


@dataclass(frozen=True)
class _Task:
    """Questions of one task, the group of each, and draws of groups."""

    members: npt.NDArray[np.int64]
    group: npt.NDArray[np.int64]
    draws: npt.NDArray[np.int32]

    @property
    def unseen(self) -> float:
        """The largest share of groups that are of a kind that none of those seen is."""
        return float(1.0 - _TAIL ** (1.0 / self.draws.shape[1]))

    def means(self, values: Sequence[float]) -> tuple[float, Floats]:
        """Return the mean of the questions, and of those of each draw."""
        own = np.asarray(values, dtype=float)[self.members]
        sums, sizes = np.bincount(self.group, own), np.bincount(self.group)
        drawn = [sums[d].sum(axis=1) / sizes[d].sum(axis=1) for d in _parts(self.draws)]
        return float(own.mean()), np.concatenate(drawn)


class _Part(NamedTuple):
    """A task's value, its draws, and what its interval holds at the least."""

    value: float
    drawn: Floats
    low: float
    high: float


def _parts(draws: npt.NDArray[np.int32]) -> Iterator[npt.NDArray[np.int32]]:
    return (draws[start : start + _PART] for start in range(0, len(draws), _PART))


def _over(own: Floats, whole: Floats) -> Floats:
    """Divide; a draw in which the full model was never right says nothing."""
    return np.divide(own, whole, out=np.full_like(own, np.nan), where=whole > 0)


def _interval(parts: Sequence[_Part]) -> Interval:
    value = float(np.mean([part.value for part in parts]))
    drawn = np.mean([part.drawn for part in parts], axis=0)
    low, high = np.nanquantile(drawn, [_TAIL, 1.0 - _TAIL])
    below = np.linalg.norm([part.value - part.low for part in parts]) / len(parts)
    above = np.linalg.norm([part.high - part.value for part in parts]) / len(parts)
    return Interval(value, float(min(low, value - below)), float(max(high, value + above)))
