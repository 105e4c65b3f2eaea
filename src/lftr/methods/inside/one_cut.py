"""Methods that drop tokens once, in an early layer."""

from __future__ import annotations

from dataclasses import InitVar, dataclass
from typing import ClassVar

from ...values.budget import Keep
from ...values.errors import ArgumentError
from .base import LayerMethod
from .options import Layer
from .schedules import Schedule, Step


@dataclass(frozen=True)
class OneCut(LayerMethod, spelled=False):
    """A layer method whose default schedule is a `Step`, also written as ``layer`` and ``keep``.

    Parameters
    ----------
    schedule : Schedule
        By default half of the tokens from layer 2 on, counted from 0.
    layer : int or float, optional
        First layer with fewer tokens.
    keep : float or int, optional
        Share or number of tokens from this layer on.
    """

    schedule: Schedule = Step(layer=2, keep=0.5)
    merges: ClassVar[bool] = False
    layer: InitVar[Layer | None] = None
    keep: InitVar[Keep | None] = None

    def __post_init__(self, layer: Layer | None, keep: Keep | None) -> None:
        super().__post_init__()
        if layer is None and keep is None:
            return
        usual = type(self).__dataclass_fields__["schedule"].default
        if self.schedule != usual or not isinstance(usual, Step):
            raise ArgumentError.of("schedule", self.schedule, "no layer and no keep beside it")
        cut = Step(usual.layer if layer is None else layer, usual.keep if keep is None else keep)
        object.__setattr__(self, "schedule", cut)
