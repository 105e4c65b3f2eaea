"""Encoders that sort patches by window; in most layers, patches attend within their window."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..api import Model
from .layout import Inputs
from .medium import Medium


class InWindows(Medium):
    """The common part: methods read attention in the layers with full attention."""

    def full_layers(self, model: Model) -> Sequence[int]:
        """Return the encoder's layers with full attention."""
        raise TypeError(f"{type(self).__name__} must define full_layers(model)")

    def attention_layer(self, model: Model, layers: int, inputs: Inputs | None = None) -> int:
        """Return the last layer with full attention."""
        return int(max(self.full_layers(model)))

    def shallow_layer(self, model: Model, layers: int) -> int:
        """Return the last layer of the first half with full attention: 16 of 32, from one."""
        full = self.full_layers(model)
        return int(max((i for i in full if i < layers // 2), default=min(full)))

    def in_raster(self, model: Model, inputs: Inputs, rows: Tensor) -> Tensor:
        """Reorder ``rows`` ``(N, c)`` from the order of windows to raster order."""
        from transformers.vision_utils import get_vision_window_index

        tower: Any = self.module(model, self.tower)
        window, _ = get_vision_window_index(
            torch.as_tensor(inputs[self.grids]),
            spatial_merge_size=tower.spatial_merge_size,
            window_size=tower.window_size,
            patch_size=tower.patch_size,
        )
        raster = torch.empty_like(rows)
        raster[window.to(rows.device)] = rows
        return raster
