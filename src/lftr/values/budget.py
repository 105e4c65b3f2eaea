"""How many tokens are kept: ratios, counts and budgets, resolved from sizes alone."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from numbers import Integral, Real
from typing import Any, Literal, TypeAlias

from .errors import ArgumentError

_ALLOWED = "a ratio in (0, 1] or lftr.Budget(total=...); a whole number of tokens goes to tokens"


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


def budget_of(
    keep: object = None, tokens: object = None, stacklevel: int = 2
) -> Keep | Literal["auto"] | None:
    """Return the budget that the public arguments ``keep`` and ``tokens`` state.

    Parameters
    ----------
    keep : float, Budget, str or None
        A ratio in (0, 1], a total for each prompt, or ``"auto"``. A string may state a count. An
        int is a count too, with a `DeprecationWarning`.
    tokens : int, optional
        A count for each item.
    stacklevel : int
        Of that warning; 2 is the caller of the function that calls this one.

    Returns
    -------
    float, int, Budget, "auto" or None
        An int is a count. None where both arguments are None.

    Raises
    ------
    ArgumentError
        If a value is out of its range, or both arguments are given.
    """
    if tokens is not None:
        if keep is not None:
            allowed = f"one of keep and tokens; keep = {keep} is given too"
            raise ArgumentError.of("tokens", tokens, allowed)
        if isinstance(tokens, bool) or not isinstance(tokens, Integral) or tokens < 1:
            raise ArgumentError.of("tokens", tokens, "a whole number >= 1")
        return int(tokens)
    if keep is None:
        return None
    if is_auto(keep):
        return "auto"
    budget = parse_keep(keep)
    if isinstance(keep, Integral) or (isinstance(keep, str) and keep.strip() == "1"):
        warnings.warn(
            f"keep = {keep!r} is taken as a count of {keep}; write tokens={keep} (keep=1.0 keeps "
            "all). The next release will take keep as a ratio alone.",
            DeprecationWarning,
            stacklevel=stacklevel + 1,
        )
    return budget


def as_arguments(budget: Keep | Literal["auto"] | None) -> dict[str, Any]:
    """Return a budget as ``{"tokens": count}`` or ``{"keep": budget}``: what `budget_of` takes."""
    return {"tokens" if isinstance(budget, int) else "keep": budget}


def stated(budget: Keep | Literal["auto"] | None) -> str:
    """Write a budget as the argument that states it: ``keep=0.0625``, ``tokens=64``."""
    ((name, value),) = as_arguments(budget).items()
    return f"{name}={value:.6g}" if isinstance(value, float) else f"{name}={value}"


def spell(budget: Keep | Literal["auto"]) -> str:
    """Write a budget as the command line takes it: ``1/16``, ``64``; all is ``1/1``."""
    if isinstance(budget, Budget):
        return f"total {budget.total}"
    if isinstance(budget, int | str):
        return str(budget)
    ratio = Fraction(budget).limit_denominator(1_000_000)
    return f"{ratio.numerator}/{ratio.denominator}"  # 1 would be one token


def budget_from_plain(values: Mapping[str, Any], stacklevel: int = 2) -> Any:
    """Return the budget that ``keep`` and ``tokens`` of a JSON object state; see `budget_of`.

    JSON does not tell 1 from 1.0, and JavaScript writes both as 1, so ``"keep": 1`` is the ratio
    1.0. A `Budget` is an object with ``total``.
    """
    keep = values.get("keep")
    if isinstance(keep, int) and keep == 1 and keep is not True:
        keep = 1.0
    if isinstance(keep, Mapping) and set(keep) == {"total"}:
        keep = Budget(**keep)
    return budget_of(keep, values.get("tokens"), stacklevel + 1)


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
