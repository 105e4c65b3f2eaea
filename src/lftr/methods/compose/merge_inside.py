"""A method inside the language model, with the tokens that it drops merged instead."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...values.selection import Selection
from ..inside.base import LayerView
from ..operations.composing import stacked, with_heirs
from ..operations.directions import Directions
from ..operations.flows import clusters
from .base import LayerWrapper


@dataclass(frozen=True)
class MergeInside(LayerWrapper):
    """Merge each token that ``inner`` drops at a layer into the kept one that it is most like.

    Likeness is the cosine of the hidden states that enter the layer, whose mean the kept token
    becomes. Attention can count it as many tokens (`lftr.reduce`, ``weights``). Tokens that
    ``inner`` merges itself stay where they are; if it merges all of them, a note says so.

    Parameters
    ----------
    inner : LayerMethod or str
        The method, as an object or a name.
    """

    merges: ClassVar[bool] = True

    def select(self, view: LayerView, keep: int) -> Selection:
        chosen = stacked([self.select_inner(view, keep)])
        states = Directions.of(view.states[view.visual][None])
        return with_heirs(chosen, clusters(states, chosen.index)[0], self.method).item(0)
