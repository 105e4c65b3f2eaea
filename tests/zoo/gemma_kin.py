"""Gemma 3n, Gemma 4 without a tower, and DiffusionGemma."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from .base import NEWLINE, VOCAB, Image, Kind, Traits, VideoEntry, flat
from .gemma import Gemma4
from .layouts import GRIDS, Grid, SquareEntry
from .parts import CLOSE, IMAGE, OPEN, language, tower
from .towers import ConvTowerConfig


class Gemma3n(SquareEntry):
    """Four streams of hidden states a layer; per-layer embeddings; the last layers share keys."""

    name = "gemma3n"
    traits = Traits(container="tensor", reads="patches", sealed="streams of states")
    architecture = "Gemma3nForConditionalGeneration"
    side, tokens = 32, 16
    wrap = ((NEWLINE, OPEN), (VOCAB - 15, NEWLINE))
    embedding_std = 0.15

    def config(self) -> PreTrainedConfig:
        text = language(
            head_dim=16,
            sliding_window=40,
            layer_types=["sliding_attention", "full_attention"] * 2,
            num_kv_shared_layers=2,
            vocab_size_per_layer_input=VOCAB - 16,
            hidden_size_per_layer_input=8,
            laurel_rank=8,
            activation_sparsity_pattern=[0.5, 0.5, 0.0, 0.0],
            tie_word_embeddings=False,
        )
        audio = {
            "vocab_size": 8,
            "vocab_offset": VOCAB - 8,
            "input_feat_size": 16,
            "hidden_size": 32,
            "conf_num_attention_heads": 2,
            "conf_num_hidden_layers": 1,
            "sscp_conv_channel_size": [8, 4],
        }
        return self.made(
            text_config=text,
            vision_config=ConvTowerConfig(hidden_size=32, vocab_size=8, vocab_offset=VOCAB - 16),
            audio_config=audio,
            vision_soft_tokens_per_image=16,
            boi_token_id=OPEN,
            eoi_token_id=VOCAB - 15,
            image_token_id=VOCAB - 14,
            audio_token_id=VOCAB - 7,
            tie_word_embeddings=False,
        )

    def token_inputs(self, model: PreTrainedModel, ids: Tensor, mask: Tensor) -> dict[str, Any]:
        return {"token_type_ids": (ids == self.image_token_id(model)).long()}


CLIPS: dict[Kind, Grid] = {
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
    architecture = "Gemma4UnifiedForConditionalGeneration"
    clip_arguments = ("pixel_values_videos", "video_position_ids", "num_frames_per_video")
    clips_since = (5, 19)  # before, all clips of a call had one length
    clip_traits: Mapping[str, Any] = {"gap_tokens": True}
    max_patches = 36
    merge = 1

    def config(self) -> PreTrainedConfig:
        vision = {
            "patch_size": 2,
            "pooling_kernel_size": 2,
            "mm_embed_dim": 32,
            "mm_posemb_size": 16,
            "output_proj_dims": 32,
        }
        return self.made(
            text_config=self.text(),
            vision_config=vision,
            boi_token_id=OPEN,
            eoi_token_id=CLOSE,
            image_token_id=IMAGE,
            video_token_id=VOCAB - 4,
            audio_token_id=VOCAB - 5,
            tie_word_embeddings=False,
        )

    def token_inputs(self, model: PreTrainedModel, ids: Tensor, mask: Tensor) -> dict[str, Any]:
        image, clip = ids == self.image_token_id(model), self.is_clip(model, ids)
        return {"mm_token_type_ids": image.long() + 2 * clip.long()}

    def grid(self, image: Image) -> Grid:
        """In tokens, each of them one large patch."""
        _, height, width = GRIDS[image.kind]
        return 1, height // 2, width // 2

    def clip_counts(self, model: PreTrainedModel, clip: Image) -> int:
        frames, height, width = CLIPS[clip.kind]
        return frames * height * width

    def clip_ids(self, model: PreTrainedModel, clip: Image) -> list[int]:
        """A frame's time, then its tokens between the tokens of an image."""
        frames, height, width = CLIPS[clip.kind]
        run = [OPEN, *[int(model.config.video_token_id)] * (height * width), CLOSE]
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
    architecture = "DiffusionGemmaForBlockDiffusion"
    canvas = 8

    def config(self) -> PreTrainedConfig:
        experts = {"num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 32}
        vision = tower(
            model_type="gemma4_vision",
            num_key_value_heads=2,
            head_dim=16,
            pooling_kernel_size=2,
            position_embedding_size=32,
        )
        return self.made(
            text_config=self.text() | experts,
            vision_config=vision,
            boi_token_id=OPEN,
            eoi_token_id=CLOSE,
            image_token_id=IMAGE,
            canvas_length=self.canvas,
        )

    def features(self, model: PreTrainedModel, inputs: Mapping[str, Any]) -> Any:
        arguments = {key: inputs[key] for key in self.feature_arguments if key in inputs}
        return model.base_model.encoder.get_image_features(**arguments, return_dict=True)
