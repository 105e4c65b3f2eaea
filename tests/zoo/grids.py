"""Ragged grids with 1-D positions: Pixtral's and Moonshot's towers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import (
    Kimi_K25Config,
    Kimi_K25ForConditionalGeneration,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    MistralConfig,
    PixtralVisionConfig,
    PreTrainedConfig,
    PreTrainedModel,
)

from .base import NEWLINE, VOCAB, Image, Traits, ZooEntry, flat, pixels
from .qwen import GRIDS, TEXT_CONFIG

IMAGE = VOCAB - 1


class Mistral3(ZooEntry):
    """A break token after every row of placeholders, an end token after the last."""

    name = "mistral3"
    traits = Traits(container="tuple", ragged=True, gap_tokens=True)
    model_class = Mistral3ForConditionalGeneration
    feature_arguments = ("pixel_values", "image_sizes")
    row_break, end = VOCAB - 2, VOCAB - 3

    def config(self) -> PreTrainedConfig:
        vision = PixtralVisionConfig(
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=3,
            num_attention_heads=2,
            image_size=64,
            patch_size=4,
        )
        text = MistralConfig(**TEXT_CONFIG, head_dim=16, sliding_window=None)
        return Mistral3Config(
            vision_config=vision,
            text_config=text,
            image_token_index=IMAGE,
            tie_word_embeddings=False,
        )

    def counts(self, model: PreTrainedModel, image: Image, alone: bool = True) -> int:
        _, height, width = GRIDS[image.kind]
        return height * width // 4

    def image_ids(self, model: PreTrainedModel, image: Image, alone: bool = True) -> list[int]:
        _, height, width = GRIDS[image.kind]
        row = [self.image_token_id(model)] * (width // 2) + [self.row_break]
        return [*(row * (height // 2))[:-1], self.end]

    def visual_inputs(
        self, model: PreTrainedModel, rows: Sequence[Sequence[Image]]
    ) -> dict[str, Any]:
        images = flat(rows)
        sizes = torch.tensor([GRIDS[image.kind][1:] for image in images]) * 4
        values = torch.zeros(len(images), 3, *sizes.amax(dim=0).tolist())
        for index, (image, (height, width)) in enumerate(zip(images, sizes.tolist(), strict=True)):
            values[index, :, :height, :width] = pixels(image, 3, height, width)
        return {"pixel_values": values, "image_sizes": sizes}


class KimiK25(ZooEntry):
    """Raster-order patches, merged 2x2 by the projector; DeepSeek-V3 text (MLA, experts)."""

    name = "kimi_k25"
    traits = Traits(container="tuple", ragged=True, raster=True, spared=("expansion",))
    model_class = Kimi_K25ForConditionalGeneration
    feature_arguments = ("pixel_values", "image_grid_thw")
    wrap = ((VOCAB - 2, 10, VOCAB - 3), (VOCAB - 4, NEWLINE))
    """`<|media_begin|>image<|media_content|>` and `<|media_end|>` with a newline."""

    def config(self) -> PreTrainedConfig:
        vision = {
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "patch_size": 4,
            "pos_emb_height": 8,
            "pos_emb_width": 8,
        }
        text = TEXT_CONFIG | {
            "model_type": "deepseek_v3",
            "num_key_value_heads": 4,
            "moe_intermediate_size": 32,
            "n_routed_experts": 4,
            "n_group": 1,
            "topk_group": 1,
            "num_experts_per_tok": 2,
            "first_k_dense_replace": 1,
            "kv_lora_rank": 16,
            "q_lora_rank": 24,
            "qk_rope_head_dim": 8,
            "qk_nope_head_dim": 8,
            "v_head_dim": 12,
            "num_mtp_layers": 0,
        }
        return Kimi_K25Config(
            text_config=text,
            vision_config=vision,
            projection_hidden_size=32,
            image_token_id=IMAGE,
            video_token_id=VOCAB,
            vision_start_token_id=VOCAB - 2,
            vision_end_token_id=VOCAB - 4,
            tie_word_embeddings=False,
        )

    def counts(self, model: PreTrainedModel, image: Image, alone: bool = True) -> int:
        _, height, width = GRIDS[image.kind]
        return height * width // 4

    def visual_inputs(
        self, model: PreTrainedModel, rows: Sequence[Sequence[Image]]
    ) -> dict[str, Any]:
        images = flat(rows)
        grids = torch.tensor([GRIDS[image.kind] for image in images])
        values = [
            pixels(image, int(grid.prod()), 3, 4, 4)
            for image, grid in zip(images, grids, strict=True)
        ]
        return {"pixel_values": torch.cat(values), "image_grid_thw": grids}
