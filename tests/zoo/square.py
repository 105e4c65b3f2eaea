"""Models that show every image as one square of tokens: DeepSeek-VL, Janus, FastVLM."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel, SamVisionConfig

from .base import Image, Traits, flat
from .layouts import squares
from .llava import Llava
from .parts import CLOSE, IMAGE, OPEN, llama, qwen2, sam, siglip
from .towers import MapsConfig


class DeepseekVL(Llava):
    """SigLIP without a class token, an MLP, Llama."""

    name = "deepseek_vl"
    traits = Traits(container="tensor")
    architecture = "DeepseekVLForConditionalGeneration"

    def config(self) -> PreTrainedConfig:
        return self.made(
            vision_config=siglip(24),
            text_config=llama(),
            image_token_id=IMAGE,
            tie_word_embeddings=False,
        )


class DeepseekVLHybrid(DeepseekVL):
    """SAM beside SigLIP: of a larger picture of the same image, resampled to the same square."""

    name = "deepseek_vl_hybrid"
    architecture = "DeepseekVLHybridForConditionalGeneration"
    feature_arguments = ("pixel_values", "high_res_pixel_values")

    def config(self) -> PreTrainedConfig:
        high = sam(num_hidden_layers=2, output_channels=8, patch_size=4, window_size=4)
        return self.made(
            vision_config=siglip(24),
            high_res_vision_config=SamVisionConfig(**high),
            text_config=llama(),
            image_token_id=IMAGE,
            tie_word_embeddings=False,
        )

    def visual_inputs(
        self, model: PreTrainedModel, rows: Sequence[Sequence[Image]]
    ) -> dict[str, Any]:
        high = squares(flat(rows), 32, part="high")
        return super().visual_inputs(model, rows) | {"high_res_pixel_values": high}


class Janus(Llava):
    """A SigLIP of its own, between start and end; the parts that draw images take no part."""

    name = "janus"
    traits = Traits(container="tensor")
    architecture = "JanusForConditionalGeneration"
    wrap = ((OPEN,), (CLOSE,))

    def config(self) -> PreTrainedConfig:
        vision = {
            "hidden_size": 32,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "image_size": 24,
            "patch_size": 4,
            "mlp_ratio": 1.5,
            "projection_dim": 48,
            "num_image_tokens": 36,
        }
        drawing = {
            "embed_dim": 4,
            "num_embeddings": 16,
            "latent_channels": 8,
            "base_channels": 32,
            "channel_multiplier": [1, 1],
            "num_res_blocks": 1,
            "projection_dim": 48,
            "image_token_embed_dim": 48,
        }
        return self.made(
            vision_config=vision,
            vq_config=drawing,
            text_config=llama(),
            image_token_id=IMAGE,
            tie_word_embeddings=False,
        )


class FastVlm(Llava):
    """A convolutional tower, which has no attention, an MLP, Qwen2."""

    name = "fast_vlm"
    traits = Traits(container="tensor", reads="patches")
    architecture = "FastVlmForConditionalGeneration"

    def config(self) -> PreTrainedConfig:
        return self.made(
            vision_config=MapsConfig(),
            text_config=qwen2(),
            image_token_index=IMAGE,
            image_seq_length=36,
        )
