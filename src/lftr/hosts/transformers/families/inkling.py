"""Inkling: language models that place tokens by how far apart they stand in the sequence.

Their layers are told no positions: a bias by distance and convolutions over neighbouring columns
see the order of the tokens that there are. Kept tokens therefore move together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from ....errors import UnsupportedModelError
from ..api import Model
from .base import Family
from .layout import Inputs, Layout, grids_of


class ByDistance(Family):
    """The common part."""

    compact_only = "its layers see how far apart tokens stand in the sequence, and no positions"
    told_positions = False

    def first_layer_to_reduce(self, model: Model) -> int:
        raise UnsupportedModelError(
            f"layers of {type(model).__name__} see neighbouring columns (convolutions, a bias by "
            "distance), so tokens cannot leave between them: choose a method that decides before "
            "the language model"
        )


class Inkling(ByDistance):
    """Inkling: every patch is encoded alone, and nothing tells an image's shape."""

    model_types: ClassVar[Sequence[str]] = ("inkling_mm_model",)
    projector = "vision_tower.final_norm"
    projector_sees_tokens = True

    def entries(self, model: Model, inputs: Inputs, features: Any) -> None:
        """Return nothing: an image is a run of placeholders."""
        return

    def layouts(self, model: Model, inputs: Inputs, sizes: Sequence[int]) -> list[Layout]:
        return [Layout(((1, 1, size),)) for size in sizes]


class Inkling2(ByDistance):
    """Inkling 2: patches of all images in one sequence, a class token in front of each image's."""

    model_types: ClassVar[Sequence[str]] = ("inkling2", "inkling2_loop")
    projector = "vision_tower.merger"
    projector_sees_tokens = True

    def layouts(self, model: Model, inputs: Inputs, sizes: Sequence[int]) -> list[Layout]:
        return [Layout((grid,)) for grid in grids_of(inputs, self.grids)]

    def cls_place(self, model: Model) -> None:
        """Return nothing: there is one class token for each image of a sequence."""
        return

    def to_tokens(self, model: Model, inputs: Inputs, patches: Tensor) -> Tensor:
        size = int(model.config.vision_config.spatial_merge_size) ** 2
        counts = [t * h * w * size + 1 for t, h, w in grids_of(inputs, self.grids)]
        images = [image[1:] for image in patches.flatten(0, 1).split(counts)]
        rows = torch.cat(images)
        return rows.reshape(-1, size, rows.shape[-1]).mean(dim=1)
