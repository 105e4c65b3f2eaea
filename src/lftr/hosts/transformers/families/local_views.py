"""Families that encode crops and the whole image separately: Step 3.7, Unlimited-OCR.

The encoder runs twice, on views of different sizes, so the host reads no evidence from it. Sizes
and counts among the encoder's arguments give the layout of the tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from ....values.errors import UnsupportedModelError
from ....values.tokens import Grid
from ...layout import Layout
from ..api import Model
from .base import Family
from .layout import Inputs


class LocalViews(Family):
    """The common part: one entry holds the tokens of the crops, then those of the image."""

    maps_patches: ClassVar[bool] = False

    def patch(self, model: Model) -> int:
        """Return the side of a patch in pixels."""
        raise TypeError(f"{type(self).__name__} must define patch(model)")

    def side(self, model: Model, pixels: Tensor) -> int:
        """Return the tokens along the side of a view, after two convolutions of stride 2."""
        patches = pixels.shape[-1] // self.patch(model)
        return math.ceil(math.ceil(patches / 2) / 2)

    def crops(self, inputs: Inputs, entries: int) -> list[int]:
        """Return how many crops each image has."""
        numbers = inputs.get("num_local_patches")
        if numbers is None:
            return [0] * entries
        return [int(number) for number in torch.as_tensor(numbers).tolist()]

    def sides(self, model: Model, inputs: Inputs) -> tuple[int, int]:
        """Return the tokens along the side of a crop (0 without crops), and of an image."""
        local = inputs.get("pixel_values_local")
        crop = 0 if local is None else self.side(model, local)
        return crop, self.side(model, inputs["pixel_values"])


class Step3p7(LocalViews):
    """Step 3.7: a square of tokens for each crop, and one for the image."""

    model_types: ClassVar[Sequence[str]] = ("step3p7",)
    tower = "vision_model"

    def patch(self, model: Model) -> int:
        return int(model.config.vision_config.patch_size)

    def layouts(self, model: Model, inputs: Inputs, sizes: Sequence[int]) -> list[Layout]:
        crop, whole = self.sides(model, inputs)
        return [
            Layout((*[(1, crop, crop)] * number, (1, whole, whole)))
            for number in self.crops(inputs, len(sizes))
        ]


class UnlimitedOcr(LocalViews):
    """Unlimited-OCR: one grid of all crops, newlines after its rows, a token at the end."""

    model_types: ClassVar[Sequence[str]] = ("unlimited_ocr",)

    def first_layer_to_reduce(self, model: Model) -> int:
        raise UnsupportedModelError(
            f"the cache of {type(model).__name__} keeps the prompt and forgets what follows, and "
            "separates the two by the prompt's length, so its layers cannot hold fewer tokens: "
            "choose a method that decides before the language model"
        )

    def patch(self, model: Model) -> int:
        return int(model.config.vision_config.sam_config.patch_size)

    def layouts(self, model: Model, inputs: Inputs, sizes: Sequence[int]) -> list[Layout]:
        crop, whole = self.sides(model, inputs)
        shapes: Sequence[Any] = inputs.get("patches_grid") or [(0, 0)] * len(sizes)
        layouts = []
        for number, (columns, rows) in zip(self.crops(inputs, len(sizes)), shapes, strict=True):
            grids: list[Grid] = [(1, int(rows) * crop, int(columns) * crop)] if number else []
            grids.append((1, whole, whole))
            layouts.append(Layout(tuple(grids), _mark_ends(grids)))
        return layouts


def _mark_ends(grids: Sequence[Grid]) -> Tensor:
    """Mark the newline after each row of the grids, and the token after the last."""
    marks = [torch.tensor([*[False] * wide, True]).repeat(high) for _, high, wide in grids]
    return torch.cat([*marks, torch.tensor([True])])
