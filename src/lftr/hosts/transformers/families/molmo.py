"""Molmo 2: overlapping crops are joined, and attention pools blocks of patches to tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from ...layout import Layout
from ..api import Model
from .base import Family
from .layout import Inputs
from .medium import Medium, VideoNames


class Pooled(Medium):
    """A low-resolution grid and one of the crops; an argument lists the patches of each token.

    Images and clips have the same placeholder; special tokens enclose each frame of a clip.
    """

    grids = "image_grids"
    pools: ClassVar[str] = "image_token_pooling"

    def placeholders(self, model: Model, input_ids: Tensor) -> Tensor:
        begun = input_ids.eq(model.config.frame_start_token_id).cumsum(dim=1)
        ended = input_ids.eq(model.config.frame_end_token_id).cumsum(dim=1)
        in_frame = begun > ended
        return input_ids.eq(model.config.image_token_id) & (in_frame == (self.name == "video"))

    def added(self, model: Model) -> Tensor:
        """Return the embedding of the placeholder, to which the model adds the token."""
        token = torch.tensor(model.config.image_token_id, device=model.device)
        embedded: Tensor = model.get_input_embeddings()(token)
        return embedded.detach()

    def layouts(self, model: Model, inputs: Inputs, sizes: Sequence[int]) -> list[Layout]:
        rows = torch.as_tensor(inputs[self.grids]).tolist()
        return [Layout(((1, low, wide), (1, high, across))) for low, wide, high, across in rows]

    def to_tokens(self, model: Model, inputs: Inputs, patches: Tensor) -> Tensor:
        index = torch.as_tensor(inputs[self.pools]).to(patches.device).long()
        inside = (index >= 0).unsqueeze(-1)
        rows = patches.flatten(0, 1)[index.clamp(min=0)] * inside
        return rows.sum(dim=1) / inside.sum(dim=1).clamp(min=1)

    def attention_layer(self, model: Model, layers: int, inputs: Inputs | None = None) -> int:
        read = model.config.adapter_config.vision_feature_layer
        return max(int(layer) % layers for layer in read)


class PooledClips(VideoNames, Pooled):
    """Clips: each frame is one grid."""

    grids = "video_grids"
    pools = "video_token_pooling"

    def layouts(self, model: Model, inputs: Inputs, sizes: Sequence[int]) -> list[Layout]:
        rows = torch.as_tensor(inputs[self.grids]).tolist()
        return [Layout(((frames, high, wide),)) for frames, high, wide in rows]

    def views(self, model: Model, inputs: Inputs, sizes: Sequence[int]) -> list[int]:
        return [int(row[0]) for row in torch.as_tensor(inputs[self.grids]).tolist()]


class Molmo2(Pooled, Family):
    """The family."""

    model_types: ClassVar[Sequence[str]] = ("molmo2",)
    video: Medium | None = PooledClips()
    one_medium = True
