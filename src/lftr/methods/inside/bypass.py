"""Layers that do without the image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...values.source import Source
from .base import LayerMethod
from .schedules import Schedule, Skip


@dataclass(frozen=True)
class Bypass(LayerMethod, name="bypass"):
    """Lead visual tokens past some layers, which work on text alone; after them they are back.

    Parameters
    ----------
    schedule : Skip
        Which layers; by default those at half and at three quarters of the depth, our choice.

    Notes
    -----
    The study advises it for diffusion models made of autoregressive ones: skip where the answer
    attends little to the image, keep the layers around the peak.
    """

    source = Source(
        "a study of diffusion models", arxiv="2511.15098", note="the layer skipping that it advises"
    )
    schedule: Skip = Skip("bypassed", layers=(0.5, 0.75))
    scheduled: ClassVar[type[Schedule]] = Skip
