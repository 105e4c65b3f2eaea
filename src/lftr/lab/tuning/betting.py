"""A sequential test of a mean, by betting: it may be looked at after every observation."""

from __future__ import annotations

import math
from collections.abc import Sequence

_SHARES = (0.5, 0.8, 1.0)  # how far between the bound and 1 each bettor takes the mean to be


class Bets:
    """Evidence that the mean of values in [0, 1] is above a bound.

    Several bettors start with one unit of money in total. Each assumes a mean ``q`` above the bound
    ``b``, and multiplies its money by ``x q / b + (1 - x) (1 - q) / (1 - b)`` when it sees ``x``.
    If the mean, given all earlier values, is at most ``b``, the expectation of this factor is at
    most 1. The sum is then a non-negative supermartingale, and by Ville's inequality it ever
    reaches ``1 / alpha`` with a probability of at most ``alpha``, at whatever times it is inspected
    (A. Wald, Sequential Analysis, 1947, for zeros and ones; I. Waudby-Smith and A. Ramdas, JRSS B
    86, 2024, for means of bounded values).

    Parameters
    ----------
    bound : float
        In (0, 1).
    """

    def __init__(self, bound: float) -> None:
        self._factors = [_factors(bound, share) for share in _SHARES]
        self._logs = [-math.log(len(_SHARES))] * len(_SHARES)

    def add(self, value: float) -> None:
        """Add a value."""
        for i, (win, loss) in enumerate(self._factors):
            factor = value * win + (1.0 - value) * loss
            self._logs[i] += math.log(factor) if factor > 0 else -math.inf

    @property
    def log(self) -> float:
        """Logarithm of the bettors' total money."""
        return _log_sum(self._logs)

    def beyond(self, alpha: float) -> bool:
        """Whether the bound is refuted at the level ``alpha``."""
        return self.log >= -math.log(alpha)

    def within_reach(self, alpha: float, left: int) -> bool:
        """Whether ``left`` more values could refute the bound, were they all 1."""
        pairs = zip(self._logs, self._factors, strict=True)
        return _log_sum([log + left * math.log(win) for log, (win, _) in pairs]) >= -math.log(alpha)


def least_values(bound: float, alpha: float) -> int:
    """Return how many values refute the bound at the level ``alpha`` if all of them are 1."""
    high = 1
    while not Bets(bound).within_reach(alpha, high):
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if Bets(bound).within_reach(alpha, middle) else (middle, high)
    return high


def _factors(bound: float, share: float) -> tuple[float, float]:
    mean = bound + share * (1.0 - bound)
    return mean / bound, (1.0 - mean) / (1.0 - bound)


def _log_sum(logs: Sequence[float]) -> float:
    most = max(logs)
    if most == -math.inf:
        return most
    return most + math.log(sum(math.exp(log - most) for log in logs))
