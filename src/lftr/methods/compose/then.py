"""Apply one method after another."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from ...values.budget import Budget, parse_keep, resolve
from ...values.errors import ArgumentError
from ...values.selection import Selection
from ...values.tokens import VisualTokens
from ..base import Method
from ..operations.composing import after
from .base import Wrapper, decide

_MERGED = ("features", "encoder_features", "keys", "queries", "values", "visual_projected")


@dataclass(frozen=True)
class Then(Wrapper):
    """Let ``a`` reduce the tokens, then let ``b`` reduce the result to ``keep``.

    The second method receives the slots of the first: features, keys, queries and projected tokens
    are merged as the first decided; attention is that of the anchors. It receives no grid, since
    the slots may not fill one. If both methods merge, the factors are those of both steps combined,
    and what a slot of the first stands for is divided as the second divides the slot.

    Parameters
    ----------
    a, b : Method or str
        The first and the second method, as objects or names.
    first : float or int, optional
        How many tokens the first method keeps, a ratio or a count; at least ``keep``. By default
        the geometric mean of N and ``keep``, so that both reduce by the same factor.
    """

    a: Method | str
    b: Method | str
    first: float | int | None = None

    inside: ClassVar[tuple[str, ...]] = ("a", "b")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.first is not None and isinstance(parse_keep(self.first), Budget):
            raise ArgumentError.of("first", self.first, "a ratio in (0, 1] or a whole number >= 1")

    def choose(self, tokens: VisualTokens, keep: int) -> Selection:
        a, b = self.methods
        total = tokens.count
        wish = resolve(self.first, total) if self.first else math.isqrt(total * keep)
        chosen = decide(a, tokens, max(keep, wish))
        if chosen.count == keep:
            return chosen
        return after(chosen, decide(b, _slots_as_tokens(tokens, chosen), keep))


def _slots_as_tokens(tokens: VisualTokens, chosen: Selection) -> VisualTokens:
    """Return the slots of a decision as tokens."""
    if chosen.count == tokens.count and chosen.flow is None:
        return tokens
    slots = tokens.take(chosen.index)
    if chosen.flow is None:
        return slots
    fields = {name: getattr(tokens, name) for name in _MERGED}
    merged: dict[str, Any] = {n: chosen.apply(x) for n, x in fields.items() if x is not None}
    return replace(slots, **merged)
