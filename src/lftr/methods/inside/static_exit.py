"""Drop all visual tokens at one fixed layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...values.source import Source
from .base import LayerMethod
from .schedules import Exit, Schedule


@dataclass(frozen=True)
class StaticExit(LayerMethod, name="static-exit"):
    """Drop all visual tokens before one layer, the same for every prompt.

    `lftr.calibrate_exit` finds the layer for a model, without labels.

    Parameters
    ----------
    schedule : Exit
        By default the first half of the layers has the visual tokens.

    Notes
    -----
    In the original, trained gates find the layer for each prompt: see `dyvte`.
    """

    source = Source(
        "DyVTE", arxiv="2411.19628", note="a training-free version of the trained original"
    )
    schedule: Exit = Exit(0.5)
    scheduled: ClassVar[type[Schedule]] = Exit
    merges: ClassVar[bool] = False
