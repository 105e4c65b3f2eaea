"""Models that show every image as one square of tokens: DeepSeek-VL, Janus, FastVLM."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModel,
    DeepseekVLConfig,
    DeepseekVLForConditionalGeneration,
    DeepseekVLHybridConfig,
    DeepseekVLHybridForConditionalGeneration,
    FastVlmConfig,
    FastVlmForConditionalGeneration,
    JanusConfig,
    JanusForConditionalGeneration,
    PreTrainedConfig,
    PreTrainedModel,
    SamVisionConfig,
)
from transformers.modeling_outputs import BaseModelOutputWithPooling

from .base import VOCAB, Image, Traits, flat, pixels
from .llava import Llava, llama, qwen2, siglip

START, END, IMAGE = range(VOCAB - 3, VOCAB)


class DeepseekVL(Llava):
    """SigLIP without a class token, an MLP, Llama."""

    name = "deepseek_vl"
    traits = Traits(container="tensor")
    model_class = DeepseekVLForConditionalGeneration

    def config(self) -> PreTrainedConfig:
        return DeepseekVLConfig(
            vision_config=siglip(24),
            text_config=llama(),
            image_token_id=IMAGE,
            tie_word_embeddings=False,
        )


class DeepseekVLHybrid(DeepseekVL):
    """SAM beside SigLIP: of a larger picture of the same image, resampled to the same square."""

    name = "deepseek_vl_hybrid"
    model_class = DeepseekVLHybridForConditionalGeneration
    feature_arguments = ("pixel_values", "high_res_pixel_values")

    def config(self) -> PreTrainedConfig:
        high = SamVisionConfig(
            hidden_size=32,
            output_channels=8,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=32,
            patch_size=4,
            window_size=4,
            global_attn_indexes=[1],
            mlp_dim=48,
        )
        return DeepseekVLHybridConfig(
            vision_config=siglip(24),
            high_res_vision_config=high,
            text_config=llama(),
            image_token_id=IMAGE,
            tie_word_embeddings=False,
        )

    def visual_inputs(
        self, model: PreTrainedModel, rows: Sequence[Sequence[Image]]
    ) -> dict[str, Any]:
        high = [pixels(image, 3, 32, 32, part="high") for image in flat(rows)]
        return super().visual_inputs(model, rows) | {"high_res_pixel_values": torch.stack(high)}


class Janus(Llava):
    """A SigLIP of its own, between start and end; the parts that draw images take no part."""

    name = "janus"
    traits = Traits(container="tensor")
    model_class = JanusForConditionalGeneration
    wrap = ((START,), (END,))

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
        return JanusConfig(
            vision_config=vision,
            vq_config=drawing,
            text_config=llama(),
            image_token_id=IMAGE,
            tie_word_embeddings=False,
        )


class MapsConfig(PreTrainedConfig):
    """Configuration of `Maps`."""

    model_type = "lftr_zoo_maps"
    hidden_size: int = 32
    stride: int = 4


class Maps(PreTrainedModel):
    """A convolutional tower that gives maps `(n, C, h, w)`, as FastVLM's does.

    The checkpoints' own, FastViTHD, comes from timm, which the tests do without
    (`test_timm.py` runs it where it is installed).
    """

    config_class = MapsConfig
    _supports_sdpa = True

    def __init__(self, config: MapsConfig) -> None:
        super().__init__(config)
        width = config.hidden_size
        self.stem = torch.nn.Conv2d(3, width, config.stride, config.stride)
        self.mixer = torch.nn.Conv2d(width, width, 3, padding=1)
        self.post_init()

    def forward(self, pixel_values: Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        maps = torch.nn.functional.gelu(self.stem(pixel_values))
        return BaseModelOutputWithPooling(last_hidden_state=maps + self.mixer(maps))


AutoConfig.register(MapsConfig.model_type, MapsConfig, exist_ok=True)
AutoModel.register(MapsConfig, Maps, exist_ok=True)


class FastVlm(Llava):
    """A convolutional tower, which has no attention, an MLP, Qwen2."""

    name = "fast_vlm"
    traits = Traits(container="tensor", reads="patches")
    model_class = FastVlmForConditionalGeneration

    def config(self) -> PreTrainedConfig:
        return FastVlmConfig(
            vision_config=MapsConfig(),
            text_config=qwen2(),
            image_token_index=IMAGE,
            image_seq_length=36,
        )
