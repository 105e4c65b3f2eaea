"""Families whose visual tokens are learned queries that attend to all patches of a view.

Such tokens have no place in the image; those of a view form one row, in the order of the queries.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch

from ...layout import Layout
from ..api import Model
from .general import General
from .layout import Inputs


class Aria(General):
    """Aria: every crop is an item."""

    model_types: ClassVar[Sequence[str]] = ("aria",)

    def layouts(self, model: Model, inputs: Inputs, sizes: Sequence[int]) -> list[Layout]:
        return [Layout(((1, 1, size),)) for size in sizes]


class Idefics2(Aria):
    """Idefics2: the encoder's output has one entry per sample; every image or crop is an item."""

    model_types: ClassVar[Sequence[str]] = ("idefics2",)

    def entries(self, model: Model, inputs: Inputs, features: Any) -> list[int]:
        latents = int(model.config.perceiver_config.resampler_n_latents)
        total = sum(entry.shape[:-1].numel() for entry in features)
        return [latents] * (total // latents)


class DeepseekOcr2(General):
    """DeepSeek-OCR-2: queries of the crops, then of the whole image, then a learned separator."""

    model_types: ClassVar[Sequence[str]] = ("deepseek_ocr2",)

    def layouts(self, model: Model, inputs: Inputs, sizes: Sequence[int]) -> list[Layout]:
        return [Layout(((1, 1, size - 1),), torch.arange(size) == size - 1) for size in sizes]
