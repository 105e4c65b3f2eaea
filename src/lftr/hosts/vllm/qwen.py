"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL: images at their own size, positions in three dimensions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from vllm.config import VllmConfig
from vllm.model_executor.models.qwen2_5_vl import (
    Qwen2_5_VLDummyInputsBuilder,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLMultiModalProcessor,
    Qwen2_5_VLProcessingInfo,
)
from vllm.model_executor.models.qwen2_vl import (
    Qwen2VLDummyInputsBuilder,
    Qwen2VLForConditionalGeneration,
    Qwen2VLMultiModalProcessor,
    Qwen2VLProcessingInfo,
)
from vllm.model_executor.models.qwen3_vl import (
    Qwen3VLDummyInputsBuilder,
    Qwen3VLForConditionalGeneration,
    Qwen3VLMultiModalProcessor,
    Qwen3VLProcessingInfo,
)
from vllm.multimodal import MULTIMODAL_REGISTRY

from . import positions
from .processing import Shortening
from .reducing import Reducing


class Gridded(Reducing):
    """What the Qwen-VL models share: packed patches with their grids, and M-RoPE."""

    tower = "visual"
    supports_multimodal_pruning = True  # vLLM's word for coming back with positions
    rewrites_positions = True

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        positions.check(vllm_config)
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        positions.ask_for_rewriting(vllm_config)

    def items(self, inputs: Mapping[str, Any]) -> list[int]:
        """Return the tokens of each image's grid."""
        area = self.visual.spatial_merge_size**2
        return [count // area for count in self.packed(inputs)]

    def packed(self, inputs: Mapping[str, Any]) -> list[int]:
        """Return the patches of each image."""
        return [int(count) for count in inputs["image_grid_thw"].prod(-1).tolist()]

    def part(self, inputs: Mapping[str, Any], start: int, stop: int) -> dict[str, Any]:
        """Return the arguments of images ``start`` to ``stop``."""
        ends = np.cumsum([0, *self.packed(inputs)])
        return {
            "pixel_values": inputs["pixel_values"][ends[start] : ends[stop]],
            "image_grid_thw": inputs["image_grid_thw"][start:stop],
        }

    def placed(
        self, features: Sequence[Tensor], anchors: Sequence[Tensor], inputs: Mapping[str, Any]
    ) -> list[Tensor]:
        """Put beside each token its row and column."""
        side = self.visual.spatial_merge_size
        found = []
        grids = inputs["image_grid_thw"].tolist()
        for tokens, index, (_, _, width) in zip(features, anchors, grids, strict=True):
            columns = width // side
            index = index.to(tokens.device)
            found.append(positions.with_offsets(tokens, index // columns, index % columns))
        return found

    def _unreduced(self, features: Any) -> Any:
        return [positions.without_offsets(one) for one in features or ()]

    def media(
        self, ids: Sequence[int], features: Sequence[Any]
    ) -> Iterator[tuple[int, np.ndarray[Any, Any]]]:
        """Return the first token of each item (or frame), and the offsets of its whole grid."""
        for first, frames, rows, columns, step in self.iter_mm_grid_thw(features):
            offsets = np.indices((frames, rows, columns))
            offsets[0] = (offsets[0] * step).astype(np.int64)
            yield first, offsets.reshape(3, -1)

    def get_mrope_input_positions(
        self, input_tokens: list[int], mm_features: list[Any]
    ) -> tuple[Tensor, int]:
        """Return positions as of the full prompt, for as many tokens as there are."""
        lengths = {
            one.mm_position.offset: one.mm_position.length
            for one in mm_features
            if one.modality == "image"
        }
        media = (
            (first, lengths.get(first, offsets.shape[1]), offsets)
            for first, offsets in self.media(input_tokens, mm_features)
        )
        return positions.initial(len(input_tokens), media)

    def recompute_mrope_positions(
        self,
        input_ids: list[int] | Tensor,
        multimodal_embeddings: Sequence[Tensor],
        mrope_positions: Tensor,
        num_computed_tokens: int,
    ) -> tuple[list[Tensor], Tensor, int]:
        """Write the positions of the images' tokens that come with this step."""
        placeholders = (self.config.image_token_id, self.config.video_token_id)
        return positions.rewritten(
            torch.as_tensor(input_ids),
            multimodal_embeddings,
            mrope_positions,
            num_computed_tokens,
            placeholders,
        )


class Qwen2Processor(Shortening, Qwen2VLMultiModalProcessor):
    """Qwen2-VL's requests."""


class Qwen25Processor(Shortening, Qwen2_5_VLMultiModalProcessor):
    """Qwen2.5-VL's requests."""


class Qwen3Processor(Shortening, Qwen3VLMultiModalProcessor):
    """Qwen3-VL's requests."""


@MULTIMODAL_REGISTRY.register_processor(
    Qwen2Processor, info=Qwen2VLProcessingInfo, dummy_inputs=Qwen2VLDummyInputsBuilder
)
class LftrQwen2VLForConditionalGeneration(Gridded, Qwen2VLForConditionalGeneration):
    """Qwen2-VL, reduced."""

    model_type = "qwen2_vl"


@MULTIMODAL_REGISTRY.register_processor(
    Qwen25Processor, info=Qwen2_5_VLProcessingInfo, dummy_inputs=Qwen2_5_VLDummyInputsBuilder
)
class LftrQwen2_5_VLForConditionalGeneration(Gridded, Qwen2_5_VLForConditionalGeneration):
    """Qwen2.5-VL, reduced."""

    model_type = "qwen2_5_vl"
    projector = "visual.merger.ln_q"


@MULTIMODAL_REGISTRY.register_processor(
    Qwen3Processor, info=Qwen3VLProcessingInfo, dummy_inputs=Qwen3VLDummyInputsBuilder
)
class LftrQwen3VLForConditionalGeneration(Gridded, Qwen3VLForConditionalGeneration):
    """Qwen3-VL, reduced: a token's DeepStack planes go where it goes."""

    model_type = "qwen3_vl"

    def visible(self, features: Tensor) -> Tensor:
        """Return the first plane, which is what takes a token's place in the prompt."""
        return features[:, : self.visual_dim]

    def media(
        self, ids: Sequence[int], features: Sequence[Any]
    ) -> Iterator[tuple[int, np.ndarray[Any, Any]]]:
        """Return the first token of each image and frame, and the offsets of its grid."""
        config = self.config
        found = self._iter_mm_grid_hw(
            ids,
            features,
            video_token_id=config.video_token_id,
            vision_start_token_id=config.vision_start_token_id,
            vision_end_token_id=config.vision_end_token_id,
            spatial_merge_size=config.vision_config.spatial_merge_size,
        )
        for first, rows, columns, _ in found:
            yield first, np.indices((1, rows, columns)).reshape(3, -1)
