"""Models that share Gemma's text layers: Gemma 3n, Gemma 4 without a tower, DiffusionGemma."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoModel,
    DiffusionGemmaConfig,
    DiffusionGemmaForBlockDiffusion,
    Gemma3nConfig,
    Gemma3nForConditionalGeneration,
    Gemma4UnifiedConfig,
    Gemma4UnifiedForConditionalGeneration,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.gemma3n.configuration_gemma3n import Gemma3nVisionConfig

from .base import NEWLINE, VOCAB, Image, Kind, Traits, VideoEntry, ZooEntry, flat, pixels
from .gemma import BEGIN, END, IMAGE, Gemma4
from .qwen import GRIDS, TEXT_CONFIG


class ConvTowerConfig(Gemma3nVisionConfig):
    """Settings of `ConvTower`."""

    model_type = "lftr_zoo_conv_tower"


class ConvTower(PreTrainedModel):
    """Stands in for Gemma 3n's tower, MobileNetV5 of timm, which the tests do without.

    As that one it gives channels first: `last_hidden_state` is `(images, channels, rows, columns)`.
    """

    config_class = ConvTowerConfig
    main_input_name = "pixel_values"
    _supports_sdpa = True

    def __init__(self, config: ConvTowerConfig) -> None:
        super().__init__(config)
        self.patches = nn.Conv2d(3, config.hidden_size, kernel_size=8, stride=8)
        self.mix = nn.Conv2d(config.hidden_size, config.hidden_size, kernel_size=3, padding=1)
        self.post_init()

    def forward(
        self, pixel_values: Tensor, do_pooling: bool = False, **options: Any
    ) -> BaseModelOutputWithPooling:
        patches = self.patches(pixel_values)
        return BaseModelOutputWithPooling(last_hidden_state=patches + self.mix(patches).tanh())


AutoModel.register(ConvTowerConfig, ConvTower, exist_ok=True)


class Gemma3n(ZooEntry):
    """Four streams of hidden states a layer; per-layer embeddings; the last layers share keys."""

    name = "gemma3n"
    traits = Traits(container="tensor", reads="patches", sealed="streams of states")
    model_class = Gemma3nForConditionalGeneration
    wrap = ((NEWLINE, BEGIN), (VOCAB - 15, NEWLINE))
    embedding_std = 0.15

    def config(self) -> PreTrainedConfig:
        text = TEXT_CONFIG | {
            "head_dim": 16,
            "sliding_window": 40,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            "num_kv_shared_layers": 2,
            "vocab_size_per_layer_input": VOCAB - 16,
            "hidden_size_per_layer_input": 8,
            "laurel_rank": 8,
            "activation_sparsity_pattern": [0.5, 0.5, 0.0, 0.0],
            "tie_word_embeddings": False,
        }
        audio = {
            "vocab_size": 8,
            "vocab_offset": VOCAB - 8,
            "input_feat_size": 16,
            "hidden_size": 32,
            "conf_num_attention_heads": 2,
            "conf_num_hidden_layers": 1,
            "sscp_conv_channel_size": [8, 4],
        }
        return Gemma3nConfig(
            text_config=text,
            vision_config=ConvTowerConfig(hidden_size=32, vocab_size=8, vocab_offset=VOCAB - 16),
            audio_config=audio,
            vision_soft_tokens_per_image=16,
            boi_token_id=BEGIN,
            eoi_token_id=VOCAB - 15,
            image_token_id=VOCAB - 14,
            audio_token_id=VOCAB - 7,
            tie_word_embeddings=False,
        )

    def counts(self, model: PreTrainedModel, image: Image, alone: bool = True) -> int:
        return 16

    def token_inputs(self, model: PreTrainedModel, ids: Tensor, mask: Tensor) -> dict[str, Any]:
        return {"token_type_ids": (ids == self.image_token_id(model)).long()}

    def visual_inputs(
        self, model: PreTrainedModel, rows: Sequence[Sequence[Image]]
    ) -> dict[str, Any]:
        return {"pixel_values": torch.stack([pixels(image, 3, 32, 32) for image in flat(rows)])}


CLIPS: dict[Kind, tuple[int, int, int]] = {
    "small": (1, 2, 3),
    "square": (2, 4, 4),
    "wide": (3, 2, 4),
    "tall": (3, 4, 2),
}
"""Frames, rows and columns of tokens of a clip."""


class Gemma4Unified(VideoEntry, Gemma4):
    """No tower: a token is a patch of pixels through a linear layer, with a learned position."""

    name = "gemma4_unified"
    traits = replace(Gemma4.traits, reads="patches")
    model_class = Gemma4UnifiedForConditionalGeneration
    clip_arguments = ("pixel_values_videos", "video_position_ids", "num_frames_per_video")
    takes_clips = "num_frames_per_video" in inspect.signature(model_class.forward).parameters
    """Clips of different lengths came with transformers 5.19."""
    max_patches = 36

    @property
    def video_traits(self) -> Traits:  # type: ignore[override]
        return replace(self.traits, gap_tokens=True)

    def config(self) -> PreTrainedConfig:
        text = TEXT_CONFIG | {
            "head_dim": 16,
            "global_head_dim": 16,
            "sliding_window": 40,
            "layer_types": list(self.layer_types),
            "use_bidirectional_attention": self.bidirectional_attention,
            "tie_word_embeddings": False,
        }
        vision = {
            "patch_size": 2,
            "pooling_kernel_size": 2,
            "mm_embed_dim": 32,
            "mm_posemb_size": 16,
            "output_proj_dims": 32,
        }
        return Gemma4UnifiedConfig(
            text_config=text,
            vision_config=vision,
            boi_token_id=BEGIN,
            eoi_token_id=END,
            image_token_id=IMAGE,
            video_token_id=VOCAB - 4,
            audio_token_id=VOCAB - 5,
            tie_word_embeddings=False,
        )

    def token_inputs(self, model: PreTrainedModel, ids: Tensor, mask: Tensor) -> dict[str, Any]:
        image, clip = ids == self.image_token_id(model), self.is_clip(model, ids)
        return {"mm_token_type_ids": image.long() + 2 * clip.long()}

    def patches(self, grids: Sequence[tuple[Image, object, int, int]]) -> tuple[Tensor, Tensor]:
        """Pixels and (x, y) of the patches of images or frames, padded."""
        values = torch.zeros(len(grids), self.max_patches, 3 * 4 * 4)
        positions = torch.full((len(grids), self.max_patches, 2), -1)
        for index, (image, part, height, width) in enumerate(grids):
            number = height * width
            values[index, :number] = pixels(image, number, 3 * 4 * 4, part=part).sigmoid()
            y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
            positions[index, :number] = torch.stack([x.flatten(), y.flatten()], dim=-1)
        return values, positions

    def visual_inputs(
        self, model: PreTrainedModel, rows: Sequence[Sequence[Image]]
    ) -> dict[str, Any]:
        sizes = [(image, None, *GRIDS[image.kind][1:]) for image in flat(rows)]
        values, positions = self.patches([(i, p, h // 2, w // 2) for i, p, h, w in sizes])
        return {"pixel_values": values, "image_position_ids": positions}

    def clip_counts(self, model: PreTrainedModel, clip: Image) -> int:
        frames, height, width = CLIPS[clip.kind]
        return frames * height * width

    def clip_ids(self, model: PreTrainedModel, clip: Image) -> list[int]:
        """A frame's time, then its tokens between the tokens of an image."""
        frames, height, width = CLIPS[clip.kind]
        run = [BEGIN, *[int(model.config.video_token_id)] * (height * width), END]
        return [token for frame in range(frames) for token in (20 + frame, *run)]

    def clip_inputs(
        self, model: PreTrainedModel, rows: Sequence[Sequence[Image]]
    ) -> dict[str, Any]:
        grids = [
            (clip, ("frame", frame), *CLIPS[clip.kind][1:])
            for clip in flat(rows)
            for frame in range(CLIPS[clip.kind][0])
        ]
        values, positions = self.patches(grids)
        frames = torch.tensor([CLIPS[clip.kind][0] for clip in flat(rows)])
        return {
            "pixel_values_videos": values,
            "video_position_ids": positions,
            "num_frames_per_video": frames,
        }


class DiffusionGemma(Gemma4):
    """Gemma 4's layers, as the causal encoder of a prompt and as the decoder of a block of text.

    `generate` denoises blocks of eight tokens, each beside the keys of all that is before it. It is
    not among `FAMILIES`, whose tests speak of the next token's logits.
    """

    name = "diffusion_gemma"
    traits = Traits(container="tensor", ragged=True, bidirectional=True)
    model_class = DiffusionGemmaForBlockDiffusion
    canvas = 8

    def config(self) -> PreTrainedConfig:
        text = TEXT_CONFIG | {
            "head_dim": 16,
            "global_head_dim": 16,
            "sliding_window": 40,
            "layer_types": list(self.layer_types),
            "use_bidirectional_attention": self.bidirectional_attention,
            "num_experts": 4,
            "top_k_experts": 2,
            "moe_intermediate_size": 32,
        }
        vision = {
            "model_type": "gemma4_vision",
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "patch_size": 4,
            "pooling_kernel_size": 2,
            "position_embedding_size": 32,
        }
        return DiffusionGemmaConfig(
            text_config=text,
            vision_config=vision,
            boi_token_id=BEGIN,
            eoi_token_id=END,
            image_token_id=IMAGE,
            canvas_length=self.canvas,
        )

    def features(self, model: PreTrainedModel, inputs: Mapping[str, Any]) -> Any:
        arguments = {key: inputs[key] for key in self.feature_arguments if key in inputs}
        return model.base_model.encoder.get_image_features(**arguments, return_dict=True)
