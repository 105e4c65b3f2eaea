"""Qwen2-VL and Qwen2.5-VL: items at their own size, positions in three dimensions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import accumulate
from typing import Any, ClassVar, Self

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
from vllm.multimodal import MULTIMODAL_REGISTRY

from ....values.tokens import Grid
from ...transformers.families.layout import grids_of
from ..model import positions
from ..model.encoder_inputs import EncoderInputs
from ..model.reducing import Reducing
from ..request.mrope_checks import Placing

Offsets = np.ndarray[Any, np.dtype[np.int64]]


class Patches(EncoderInputs):
    """Images or videos as grids of patches, all in one sequence; a frame attends to itself."""

    @cached_property
    def sizes(self) -> list[int]:
        """Number of tokens of each item's grid."""
        return [math.prod(grid) for grid in self.grids]

    @property
    def packed(self) -> list[int]:
        """The patches of each frame."""
        side = self.model.visual.spatial_merge_size
        return [h * w * side**2 for t, h, w in self.grids for _ in range(t)]

    @cached_property
    def grids(self) -> list[Grid]:
        """The tokens of each item, in time, rows and columns."""
        side = self.model.visual.spatial_merge_size
        grids = grids_of(self.inputs, self.medium.grids)
        return [(t, h // side, w // side) for t, h, w in grids]

    def part(self, start: int, stop: int) -> Self:
        """Return items ``start`` to ``stop`` and their rows of patches."""
        area = self.model.visual.spatial_merge_size**2
        ends = [area * size for size in accumulate(self.sizes, initial=0)]
        pixels = next(name for name in self.medium.pixels if name in self.inputs)
        each = {name: rows[start:stop] for name, rows in self.inputs.items() if name != pixels}
        return replace(self, inputs={**each, pixels: self.inputs[pixels][ends[start] : ends[stop]]})

    def offsets(self, item: int) -> Offsets:
        """Return how far each token of an item is from where the item begins."""
        seconds = self.inputs.get("second_per_grid_ts")
        step = 1.0 if seconds is None else float(seconds.flatten()[item])
        rate = getattr(self.model.config.vision_config, "tokens_per_second", 1.0)
        return offsets_of(*self.grids[item], step * rate)


class Gridded(Reducing):
    """The part that Qwen-VL models share: packed patches with their grids, and M-RoPE."""

    tower = "visual"
    inputs_of: ClassVar[Mapping[str, type[EncoderInputs]]] = {"image": Patches, "video": Patches}
    supports_multimodal_pruning = True  # vLLM then lets the model rewrite positions
    rewrites_positions = True

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        # before the layers exist: they allocate rotary angles for all positions
        positions.ask_for_rewriting(vllm_config)
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        self.is_multimodal_pruning_enabled = False  # vLLM's own

    def placed(
        self, features: Sequence[Tensor], anchors: Sequence[Tensor], inputs: Any
    ) -> list[Tensor]:
        """Append each chosen token's offset to its channels; whole items need none."""
        items = zip(features, anchors, inputs.sizes, range(len(features)), strict=True)
        return [
            positions.without_offsets(tokens)
            if len(index) == size
            else self.shortened(tokens, index.to(tokens.device), inputs, i)
            for tokens, index, size, i in items
        ]

    def shortened(self, tokens: Tensor, index: Tensor, inputs: Patches, item: int) -> Tensor:
        """Return the chosen tokens of an item, with their offsets as channels."""
        offsets = torch.from_numpy(inputs.offsets(item)).to(tokens.device)
        return positions.with_offsets(tokens, offsets[:, index])

    def media(self, ids: Sequence[int], features: Sequence[Any]) -> Iterator[tuple[int, Offsets]]:
        """Return the first token of each item (or frame), and the offsets of its whole grid."""
        for first, frames, rows, columns, step in self.iter_mm_grid_thw(features):
            yield first, offsets_of(frames, rows, columns, step)

    def get_mrope_input_positions(
        self, input_tokens: list[int], mm_features: list[Any]
    ) -> tuple[Tensor, int]:
        """Return the full prompt's positions of the tokens in this prompt."""
        lengths = {one.mm_position.offset: one.mm_position.length for one in mm_features}
        media = (
            (first, lengths.get(first, offsets.shape[1]), offsets)
            for first, offsets in self.media(input_tokens, mm_features)
        )
        return positions.initial(len(input_tokens), media)

    def recompute_mrope_positions(
        self,
        input_ids: list[int] | Tensor | None,  # None: a prompt of embeddings
        multimodal_embeddings: Sequence[Tensor],
        mrope_positions: Tensor,
        num_computed_tokens: int,
    ) -> tuple[list[Tensor], Tensor, int]:
        """Return features and positions after this step's items, see `positions.rewritten`."""
        placeholders = (self.config.image_token_id, self.config.video_token_id)
        return positions.rewritten(
            input_ids,
            multimodal_embeddings,
            mrope_positions,
            num_computed_tokens,
            placeholders,
        )


def offsets_of(frames: int, rows: int, columns: int, step: float) -> Offsets:
    """Return the offsets of a grid's tokens ``(3, N)``, with ``step`` positions between frames."""
    offsets = np.indices((frames, rows, columns)).reshape(3, -1)
    offsets[0] = (offsets[0] * step).astype(np.int64)
    return offsets


class Qwen2Processor(Placing, Qwen2VLMultiModalProcessor):
    """Qwen2-VL's requests."""


class Qwen25Processor(Placing, Qwen2_5_VLMultiModalProcessor):
    """Qwen2.5-VL's requests."""


@MULTIMODAL_REGISTRY.register_processor(
    Qwen2Processor, info=Qwen2VLProcessingInfo, dummy_inputs=Qwen2VLDummyInputsBuilder
)
class LftrQwen2VLForConditionalGeneration(Gridded, Qwen2VLForConditionalGeneration):
    """Qwen2-VL, reduced."""


@MULTIMODAL_REGISTRY.register_processor(
    Qwen25Processor, info=Qwen2_5_VLProcessingInfo, dummy_inputs=Qwen2_5_VLDummyInputsBuilder
)
class LftrQwen2_5_VLForConditionalGeneration(Gridded, Qwen2_5_VLForConditionalGeneration):
    """Qwen2.5-VL, reduced."""

    projector = "visual.merger.ln_q"
