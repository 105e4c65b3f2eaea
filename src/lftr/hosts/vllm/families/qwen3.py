"""Qwen3-VL: planes for DeepStack beside each token, and timestamps between a video's frames."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from vllm.config import VllmConfig
from vllm.model_executor.models.qwen3_vl import (
    Qwen3VLDummyInputsBuilder,
    Qwen3VLForConditionalGeneration,
    Qwen3VLMultiModalProcessor,
    Qwen3VLProcessingInfo,
)
from vllm.model_executor.models.qwen3_vl_moe import (
    Qwen3VLMoeForConditionalGeneration,
    Qwen3VLMoeProcessingInfo,
)
from vllm.multimodal import MULTIMODAL_REGISTRY

from ..model import positions
from ..request.mrope_checks import Placing
from ..request.processing import Shortened
from .qwen import Gridded, Offsets, Patches, offsets_of


class Qwen3Processor(Placing, Qwen3VLMultiModalProcessor):
    """Qwen3-VL's requests; timestamps stand between the frames of a video."""

    one_run = True

    def reach(self, placeholders: Shortened, medium: str, processed: Mapping[str, Any]) -> int:
        """Return the number of positions of an image, or of a video with its timestamps."""
        side = int(self.info.get_hf_config().vision_config.spatial_merge_size)
        t, h, w = map(int, processed[f"{medium}_grid_thw"].data)
        return t * max(h, w) // side + len(placeholders.full) - placeholders.kept


class Planed(Gridded):
    """The part that models of this line share: a token's DeepStack planes stay with it."""

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        self._spelled = lru_cache(maxsize=64)(self._spell)  # slow for a long video

    def visible(self, features: Tensor) -> Tensor:
        """Return the first plane, which is the token's embedding in the prompt."""
        return features[:, : self.visual_dim]

    def shortened(self, tokens: Tensor, index: Tensor, inputs: Patches, item: int) -> Tensor:
        """Return the chosen tokens with a video's timestamps between them, as one run."""
        stamps = inputs.inputs.get("timestamps")
        if stamps is None:
            return super().shortened(tokens, index, inputs, item)
        spelled, offsets = self._spelled(tuple(stamps[item]), inputs.grids[item])
        ids, places = spelled.to(tokens.device), torch.from_numpy(offsets).to(tokens.device)
        visual = ids == self.config.video_token_id
        stays = ~visual
        stays[visual.nonzero().squeeze(1)[index]] = True
        texts = self.texts.embed(ids[stays])
        rows = nn.functional.pad(texts, (0, tokens.shape[1] - texts.shape[1]))
        rows[visual[stays]] = tokens.to(rows)
        return positions.with_offsets(rows, places[:, stays])

    def media(self, ids: Sequence[int], features: Sequence[Any]) -> Iterator[tuple[int, Offsets]]:
        """Return the first token of each image, frame and shortened video, and its offsets."""
        config = self.config
        side = config.vision_config.spatial_merge_size
        for one in sorted(features, key=lambda feature: feature.mm_position.offset):
            if one.modality == "video" and one.mm_position.is_embed is None:
                t, h, w = one.data["video_grid_thw"].data.tolist()
                grid = (t, h // side, w // side)
                stamps = tuple(one.data["timestamps"].data)
                yield one.mm_position.offset, self._spelled(stamps, grid)[1]
                continue
            grids = self._iter_mm_grid_hw(
                ids,
                [one],
                video_token_id=config.video_token_id,
                vision_start_token_id=config.vision_start_token_id,
                vision_end_token_id=config.vision_end_token_id,
                spatial_merge_size=side,
            )
            for first, rows, columns, _ in grids:
                yield first, offsets_of(1, rows, columns, 1)

    def _spell(
        self, timestamps: tuple[float, ...], grid: tuple[int, int, int]
    ) -> tuple[Tensor, Offsets]:
        """Return the ids of a whole video in a prompt, and positions from its beginning."""
        frames, rows, columns = grid
        config, area = self.config, rows * columns
        ids = torch.tensor(
            Qwen3Processor.get_video_repl(
                tokens_per_frame=[area] * frames,
                timestamps=timestamps,
                tokenizer=self._tokenizer,
                vision_start_token_id=config.vision_start_token_id,
                vision_end_token_id=config.vision_end_token_id,
                video_token_id=config.video_token_id,
            ).full
        )
        slots = (ids == config.video_token_id).nonzero().view(frames, area)
        offsets = offsets_of(1, rows, columns, 1)
        media = [(first, area, offsets) for first in slots[:, 0].tolist()]
        return ids, positions.initial(len(ids), media)[0].numpy()


@MULTIMODAL_REGISTRY.register_processor(
    Qwen3Processor, info=Qwen3VLProcessingInfo, dummy_inputs=Qwen3VLDummyInputsBuilder
)
class LftrQwen3VLForConditionalGeneration(Planed, Qwen3VLForConditionalGeneration):
    """Qwen3-VL, reduced."""


@MULTIMODAL_REGISTRY.register_processor(
    Qwen3Processor, info=Qwen3VLMoeProcessingInfo, dummy_inputs=Qwen3VLDummyInputsBuilder
)
class LftrQwen3VLMoeForConditionalGeneration(Planed, Qwen3VLMoeForConditionalGeneration):
    """Qwen3-VL with experts, reduced."""
