"""Freeze the visual tokens in most layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...values.source import Source
from .base import LayerMethod
from .schedules import Schedule, Skip


@dataclass(frozen=True)
class Freeze(LayerMethod, name="freeze"):
    """Update visual tokens in every n-th layer only; in between, text attends to them unchanged.

    Parameters
    ----------
    schedule : Skip
        By default every third layer updates them.

    Notes
    -----
    In the original, visual tokens skip ``S - 1`` of every ``S`` layers.
    Differs from the original: the model was trained to update visual tokens in each layer; mPLUG
    was trained with its skips. Nothing is dropped: the keys and values of frozen tokens are cached.
    """

    source = Source("mPLUG", arxiv="2205.12005", venue="EMNLP 2022", note="its skip connections")
    schedule: Skip = Skip("frozen", every=3)
    scheduled: ClassVar[type[Schedule]] = Skip
    merges: ClassVar[bool] = False
