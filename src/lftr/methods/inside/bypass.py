"""Bypass some layers with the visual tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...values.source import Source
from .base import LayerMethod
from .schedules import Schedule, Skip


@dataclass(frozen=True)
class Bypass(LayerMethod, name="bypass"):
    """Let the visual tokens skip some layers, which process text alone; later ones have them again.

    Parameters
    ----------
    schedule : Skip
        The layers that are skipped; by default, our choice, those at one half and three quarters of
        the depth.

    Notes
    -----
    The study advises this for diffusion models made from autoregressive ones: skip layers where the
    answer attends little to the image, and keep those around the peak of that attention.
    """

    source = Source(
        "a study of diffusion models", arxiv="2511.15098", note="the layer skipping that it advises"
    )
    schedule: Skip = Skip("bypassed", layers=(0.5, 0.75))
    scheduled: ClassVar[type[Schedule]] = Skip
    merges: ClassVar[bool] = False
