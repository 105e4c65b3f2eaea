"""Inkling: language models that use distances between tokens instead of positions.

Their layers take no positions: an attention bias by distance, and convolutions over neighbouring
columns, depend on the order of the tokens. After a reduction, kept tokens are closer together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from ....values.errors import UnsupportedModelError
from ...layout import Layout
from ..api import Model
from .base import Family
from .layout import Inputs, grids_of


class ByDistance(Family):
    """The common part: positions cannot be kept, and layers cannot drop tokens."""

    compact_only = "its layers see how far apart tokens stand in the sequence, and no positions"
    takes_positions = False

    def first_attention(self, model: Model) -> None:
        return

    def first_layer_to_reduce(self, model: Model) -> int:
        raise UnsupportedModelError(
            f"layers of {type(model).__name__} use neighbouring columns (convolutions, a bias by "
            "distance), so no tokens can be dropped between layers: choose a method that "
            "decides before the language model"
        )


class Inkling(ByDistance):
    """Inkling: every patch is encoded separately, and no argument has an image's shape."""

    model_types: ClassVar[Sequence[str]] = ("inkling_mm_model",)
    projector = "vision_tower.final_norm"
    projector_sees_tokens = True

    def entries(self, model: Model, inputs: Inputs, features: Any) -> None:
        """Return None, so that each run of placeholders is an image."""
        return

    def layouts(self, model: Model, inputs: Inputs, sizes: Sequence[int]) -> list[Layout]:
        return [Layout(((1, 1, size),)) for size in sizes]


class Inkling2(ByDistance):
    """Inkling 2: one sequence of all images' patches, with a class token before each image."""

    model_types: ClassVar[Sequence[str]] = ("inkling2", "inkling2_loop")
    projector = "vision_tower.merger"
    projector_sees_tokens = True

    def layouts(self, model: Model, inputs: Inputs, sizes: Sequence[int]) -> list[Layout]:
        return [Layout((grid,)) for grid in grids_of(inputs, self.grids)]

    def cls_place(self, model: Model) -> None:
        """Return None, since the sequence has a class token for each image, not just one."""
        return

    def to_tokens(self, model: Model, inputs: Inputs, patches: Tensor) -> Tensor:
        size = int(model.config.vision_config.spatial_merge_size) ** 2
        counts = [t * h * w * size + 1 for t, h, w in grids_of(inputs, self.grids)]
        images = [image[1:] for image in patches.flatten(0, 1).split(counts)]
        rows = torch.cat(images)
        return rows.reshape(-1, size, rows.shape[-1]).mean(dim=1)
