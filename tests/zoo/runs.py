"""Models that write each image as one run of placeholders, its tokens in raster order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import (
    InklingConfig,
    InklingForConditionalGeneration,
    LightOnOcrConfig,
    LightOnOcrForConditionalGeneration,
    PixtralVisionConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen3Config,
)

from .base import VOCAB, Image, Traits, ZooEntry, flat, pixels
from .grids import IMAGE, Mistral3
from .qwen import GRIDS, TEXT_CONFIG


def pixtral() -> PixtralVisionConfig:
    return PixtralVisionConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=64,
        patch_size=4,
    )


class LightOnOcr(Mistral3):
    """Pixtral's tower as in Mistral 3, without its break and end tokens; Qwen3 text."""

    name = "lighton_ocr"
    traits = Traits(container="tuple", ragged=True)
    model_class = LightOnOcrForConditionalGeneration

    def config(self) -> PreTrainedConfig:
        return LightOnOcrConfig(
            vision_config=pixtral(),
            text_config=Qwen3Config(**TEXT_CONFIG, head_dim=16),
            image_token_id=IMAGE,
            tie_word_embeddings=False,
        )

    def image_ids(self, model: PreTrainedModel, image: Image, alone: bool = True) -> list[int]:
        return ZooEntry.image_ids(self, model, image, alone)


INKLING_TEXT: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "swa_num_attention_heads": 4,
    "swa_num_key_value_heads": 2,
    "swa_head_dim": 16,
    "sliding_window_size": 40,
    "d_rel": 4,
    "rel_extent": 64,
    "layer_types": ["hybrid_sliding"] * 3 + ["hybrid"],
    "moe_intermediate_size": 32,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "route_scale": 2.0,
    "max_position_embeddings": 2048,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
"""Every layer has four convolutions over neighbouring columns, and a bias by distance in place
of rotary positions."""

STATIC = {"static_cache": "a prompt longer than the window: masks of another length than the keys"}


class Inkling(ZooEntry):
    """Each patch is a token, encoded alone by an MLP; nothing in the inputs says how many patches
    an image has."""

    name = "inkling"
    traits = Traits(
        container="tensor",
        unit="token",
        reads="patches",
        ragged=True,
        stateful=True,
        sealed="neighbouring columns",
        unplaced=True,
        upstream=STATIC,
    )
    model_class = InklingForConditionalGeneration
    wrap = ((VOCAB - 2,), ())

    def config(self) -> PreTrainedConfig:
        text = {
            "intermediate_size": 48,
            "n_shared_experts": 1,
            "logits_mup_width_multiplier": 1.0,
            "mlp_layer_types": ["dense", "sparse", "sparse", "sparse"],
        }
        return InklingConfig(
            text_config=INKLING_TEXT | text,
            vision_config={"patch_size": 4, "num_hidden_layers": 4, "hidden_size": 32},
            audio_config={"n_mel_bins": 4, "mel_vocab_size": 8},
            image_token_id=IMAGE,
            image_bos_token_id=VOCAB - 2,
            audio_token_id=VOCAB - 3,
            audio_bos_token_id=VOCAB - 4,
        )

    def counts(self, model: PreTrainedModel, image: Image, alone: bool = True) -> int:
        _, height, width = GRIDS[image.kind]
        return height * width // 4

    def visual_inputs(
        self, model: PreTrainedModel, rows: Sequence[Sequence[Image]]
    ) -> dict[str, Any]:
        """The processor writes every patch twice: the encoder takes pairs of frames."""
        patches = [pixels(image, self.counts(model, image), 1, 4, 4, 3) for image in flat(rows)]
        return {"pixel_values": torch.cat(patches).repeat(1, 2, 1, 1, 1)}
