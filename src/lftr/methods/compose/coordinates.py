"""Tokens whose rotary positions serve as coordinates, kept beside any method's choice."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated

from ...options.checks import Range
from ...values.selection import Selection
from ..inside.base import LayerView
from ..inside.coordinate_tokens import coordinate_tokens
from ..operations.composing import stacked, union
from .base import LayerWrapper


@dataclass(frozen=True)
class Coordinates(LayerWrapper):
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

    share: Annotated[float, Range(0.0, 1.0)] = 0.1

    def select(self, view: LayerView, keep: int) -> Selection:
        some = min(round(len(view.visual) * self.share), keep // 4)
        marks = coordinate_tokens(view, some)
        if not bool(marks.any()):
            return self.select_inner(view, keep)
        coordinates, others = (one.nonzero().squeeze(1) for one in (marks, ~marks))
        rest = dataclasses.replace(
            view, visual=view.visual[others], locate=lambda: view.places.at(others)
        )
        chosen = self.select_inner(rest, keep - len(coordinates)).through(others)
        return union(stacked([Selection(coordinates)]), stacked([chosen])).item(0)
