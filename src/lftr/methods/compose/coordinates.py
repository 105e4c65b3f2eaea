"""Tokens whose rotary positions serve as coordinates, kept beside any method's choice."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Any, Self

from ...options.checks import Range
from ...values.budget import Keep
from ...values.errors import ArgumentError
from ...values.selection import Selection
from ..inside.base import LayerMethod, LayerView, Reads
from ..inside.coordinate_tokens import coordinate_tokens
from ..inside.schedules import Schedule
from ..lookup import get_method
from ..operations.composing import stacked, union


@dataclass(frozen=True)
class Coordinates(LayerMethod):
    """Keep the tokens that serve as coordinates, and let a method inside choose the others.

    Coordinates are those of `IVCPrune`: the tokens with the largest mean cosine and those with the
    largest mean sine in the table of rotary positions. They depend on positions alone, and answers
    about places (localisation, grounding) rely on them. Wherever ``inner`` drops tokens, it chooses
    among the other tokens and sees them alone; the count stays that of its schedule.

    Parameters
    ----------
    inner : LayerMethod or str
        The method, as an object or a name.
    share : float
        Share of the tokens in [0, 1] that stay for their cosine, and again for their sine; at most
        a quarter of those that stay.
    """

    inner: LayerMethod | str
    share: Annotated[float, Range(0.0, 1.0)] = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "inner", self.method)

    @property
    def method(self) -> LayerMethod:
        """The method that chooses the others."""
        inner = get_method(self.inner) if isinstance(self.inner, str) else self.inner
        if not isinstance(inner, LayerMethod):
            raise ArgumentError.of("inner", self.inner, "a method inside the language model")
        return inner

    @property
    def schedule(self) -> Schedule:  # type: ignore[override]
        return self.method.schedule

    @property
    def reads(self) -> Reads:  # type: ignore[override]
        return self.method.reads

    @property
    def follows(self) -> bool:  # type: ignore[override]
        return self.method.follows

    @property
    def merges(self) -> bool:  # type: ignore[override]
        return self.method.merges

    def check(self, config: Any) -> None:
        self.method.check(config)

    def watches(self, depth: int) -> frozenset[int]:
        return self.method.watches(depth)

    def observe(self, view: LayerView) -> None:
        self.method.observe(view)

    def count(self, view: LayerView, planned: int) -> int:
        return self.method.count(view, planned)

    def select(self, view: LayerView, keep: int) -> Selection:
        some = min(round(len(view.visual) * self.share), keep // 4)
        marks = coordinate_tokens(view, some)
        if not bool(marks.any()):
            return self.method.select(view, keep)
        coordinates, others = (one.nonzero().squeeze(1) for one in (marks, ~marks))
        rest = dataclasses.replace(
            view, visual=view.visual[others], locate=lambda: view.places.at(others)
        )
        chosen = self.method.select(rest, keep - len(coordinates)).through(others)
        return union(stacked([Selection(coordinates)]), stacked([chosen])).item(0)

    def averaging(self, keep: Keep) -> Self:
        return dataclasses.replace(self, inner=self.method.averaging(keep))
