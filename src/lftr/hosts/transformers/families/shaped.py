"""Families whose images keep their aspect ratio: Mistral 3 (Pixtral) and Gemma 4."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ....tokens import Grid
from .base import Family
from .layout import Inputs, Layout, block_mean, grid_split


class Mistral3(Family):
    """Mistral 3: Pixtral patches of all images in one sequence, merged two by two."""

    model_types: ClassVar[Sequence[str]] = ("mistral3",)

    def _grids(self, model: Any, inputs: Inputs) -> list[Grid]:
        patch = model.base_model.vision_tower.patch_size
        sizes = torch.as_tensor(inputs["image_sizes"]).tolist()
        return [(1, int(h) // patch, int(w) // patch) for h, w in sizes]

    def layouts(self, model: Any, inputs: Inputs, sizes: Sequence[int]) -> list[Layout]:
        side = model.config.spatial_merge_size
        return [Layout(((1, h // side, w // side),)) for _, h, w in self._grids(model, inputs)]

    def to_tokens(self, model: Any, inputs: Inputs, patches: Tensor) -> Tensor:
        side = model.config.spatial_merge_size
        grids = self._grids(model, inputs)
        parts = zip(grid_split(patches, grids), grids, strict=True)
        return torch.cat([block_mean(part, h, w, side)[0] for part, (_, h, w) in parts])


class Gemma4(Family):
    """Gemma 4: patches padded to one length, pooled by their positions."""

    model_types: ClassVar[Sequence[str]] = ("gemma4",)
    projector = "embed_vision"
    projector_sees_tokens = True

    def _places(self, model: Any, inputs: Inputs) -> list[tuple[Tensor, Tensor, Grid]]:
        """Return for each image: its real patches, the token each is pooled into, its grid."""
        size = int(model.config.vision_config.pooling_kernel_size)
        found = []
        for positions in inputs["image_position_ids"]:
            real = (positions != -1).all(dim=-1).nonzero().squeeze(1)
            columns, rows = (positions[real] // size).unbind(-1)
            wide, high = int(columns.max()) + 1, int(rows.max()) + 1
            found.append((real, rows * wide + columns, (1, high, wide)))
        return found

    def layouts(self, model: nn.Module, inputs: Inputs, sizes: Sequence[int]) -> list[Layout]:
        return [Layout((grid,)) for _, _, grid in self._places(model, inputs)]

    def to_tokens(self, model: nn.Module, inputs: Inputs, patches: Tensor) -> Tensor:
        parts = []
        for rows, (real, token, (_, high, wide)) in zip(
            patches, self._places(model, inputs), strict=True
        ):
            total = rows.new_zeros(high * wide, rows.shape[-1])
            total.index_add_(0, token.to(rows.device), rows[real.to(rows.device)])
            parts.append(total * (high * wide / len(real)))
        return torch.cat(parts)
