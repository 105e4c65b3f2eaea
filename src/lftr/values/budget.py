"""How many tokens are kept: ratios, counts and budgets, resolved from sizes alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from numbers import Integral, Real
from typing import TypeAlias

from .errors import ArgumentError

_ALLOWED = "a ratio in (0, 1], a whole number of tokens >= 1, or lftr.Budget(total=...)"


@dataclass(frozen=True)
class Budget:
    """A number of visual tokens for a whole prompt, shared among its items.

    Parameters
    ----------
    total : int
        Number of tokens that all visual items of one prompt keep together; at least one for each
        item of the prompt.
    """

    total: int

    def __post_init__(self) -> None:
        if isinstance(self.total, bool) or not isinstance(self.total, Integral) or self.total < 1:
            raise ArgumentError.of("Budget.total", self.total, "a whole number >= 1")


Keep: TypeAlias = float | int | Budget


def is_auto(keep: object) -> bool:
    """Whether ``keep`` is ``"auto"``: the method decides how many tokens are kept."""
    return isinstance(keep, str) and keep == "auto"


def parse_keep(keep: object) -> Keep:
    """Check ``keep`` and return it as a plain ``int`` (a count), ``float`` (a ratio) or `Budget`.

    Strings such as ``"1/16"``, ``"0.25"``, ``"6.25%"`` or ``"64"``, as on the command line, are
    allowed.

    Raises
    ------
    ArgumentError
        If it is zero, negative, NaN, a ratio above 1, or not a number.
    """
    if isinstance(keep, Budget):
        return keep
    if is_auto(keep):
        allowed = f"{_ALLOWED}; 'auto' counts after looking at a single item: Method.select alone"
        raise ArgumentError.of("keep", keep, allowed)
    if isinstance(keep, str):
        try:
            if keep.strip().isdecimal():
                return parse_keep(int(keep))
            return parse_keep(parse_ratio(keep))
        except (ValueError, ZeroDivisionError, OverflowError):
            raise ArgumentError.of("keep", keep, _ALLOWED) from None
    if isinstance(keep, bool) or not isinstance(keep, Real):
        raise ArgumentError.of("keep", keep, _ALLOWED)
    if isinstance(keep, Integral):
        if keep < 1:
            raise ArgumentError.of("keep", keep, _ALLOWED)
        return int(keep)
    ratio = float(keep)
    if not 0.0 < ratio <= 1.0:  # also false for NaN
        raise ArgumentError.of("keep", keep, _ALLOWED)
    return ratio


def parse_ratio(text: str) -> float:
    """Read a number that may be written as a fraction (``1/16``) or in percent (``6.25%``).

    Raises
    ------
    ValueError, ZeroDivisionError, OverflowError
        If it is not a number.
    """
    percent = text.strip().endswith("%")
    number = text.strip().removesuffix("%")
    # not as a fraction where there is none: 1e999999999 would be written out
    value = float(Fraction(number)) if "/" in number else float(number)
    return value / 100 if percent else value


def resolve(keep: object, size: int) -> int:
    """Return how many of ``size`` tokens are kept: ``max(1, ceil(size * ratio))``, or the count.

    The ratio is taken as the nearest fraction with a small denominator, so that ``0.07`` of 100
    tokens is 7 and not, by rounding error, 8. A count above ``size`` keeps all.
    """
    parsed = parse_keep(keep)
    if isinstance(parsed, Budget):
        return min(parsed.total, size)
    if isinstance(parsed, int):
        return min(parsed, size)
    return min(size, max(1, math.ceil(size * Fraction(parsed).limit_denominator(1_000_000))))


def resolve_all(keep: object, sizes: Sequence[int]) -> list[int]:
    """Return how many tokens each item of one prompt keeps, from the sizes of the items.

    A `Budget` is divided in proportion to size, by the largest-remainder rule. The total is exact,
    every item keeps at least one token and no more than it has.
    """
    parsed = parse_keep(keep)
    if not isinstance(parsed, Budget):
        return [resolve(parsed, size) for size in sizes]
    return share(parsed.total, sizes, sizes)


def share(total: int, weights: Sequence[float], limits: Sequence[int]) -> list[int]:
    """Divide ``total`` among items in proportion to ``weights``; each gets from 1 to its limit.

    Parameters
    ----------
    total : int
        Number of tokens; if it exceeds ``sum(limits)``, every item gets its limit.
    weights : sequence of float
        Non-negative weight of each item.
    limits : sequence of int
        Largest number of tokens of each item.

    Raises
    ------
    ArgumentError
        If there are more items than tokens.
    """
    if total < len(limits):
        raise ArgumentError.of(
            "Budget.total", total, f"at least one token for each of the {len(limits)} items"
        )
    total = min(total, sum(limits))
    claims = [max(float(weight), 0.0) for weight in weights]
    whole = sum(claims)
    quota = [total * (c / whole if whole > 0 else 1 / len(claims)) for c in claims]
    counts = [min(max(1, int(q)), limit) for q, limit in zip(quota, limits, strict=True)]
    while (left := total - sum(counts)) != 0:  # largest remainder first; ties to the earlier item
        step = 1 if left > 0 else -1
        movable = [i for i in range(len(counts)) if 1 <= counts[i] + step <= limits[i]]
        i = max(movable, key=lambda j: (step * (quota[j] - counts[j]), -j))
        counts[i] += step
    return counts
