"""Visual tokens that most layers read and do not update."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...values.source import Source
from .base import LayerMethod
from .schedules import Schedule, Skip


@dataclass(frozen=True)
class Freeze(LayerMethod, name="freeze"):
    """Update visual tokens in every n-th layer alone; in between, text reads them as they are.

    Parameters
    ----------
    schedule : Skip
        By default every third layer updates them.

    Notes
    -----
    The visual tokens of the original pass by ``S - 1`` of every ``S`` layers.
    Differs: the same weights that were trained to update them in each layer; mPLUG was trained with
    its skips. Nothing is dropped: keys and values of frozen tokens are cached.
    """

    source = Source("mPLUG", arxiv="2205.12005", venue="EMNLP 2022", note="its skip connections")
    schedule: Skip = Skip("frozen", every=3)
    scheduled: ClassVar[type[Schedule]] = Skip
