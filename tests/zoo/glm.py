"""The GLM-V line: packed patches, M-RoPE, clips between marks of their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from .base import VOCAB, Image, Traits
from .layouts import CLIPS, ClipEntry
from .parts import END, PLACEHOLDERS, ROPE, START, blocks, language, routed
from .reasons import CLIPS_AS_IMAGES, INTERLEAVED, MROPE


class Glm4v(ClipEntry):
    """The merger is a 2x2 convolution before an MLP; the text rotates half of every head."""

    name = "glm4v"
    mixes = False
    clip_traits: Mapping[str, Any] = {"gap_tokens": True, "upstream": CLIPS_AS_IMAGES}
    traits = Traits(
        container="tuple",
        ragged=True,
        mrope=True,
        upstream=MROPE | INTERLEAVED,
    )
    architecture = "Glm4vForConditionalGeneration"
    text = language(
        rope_parameters=ROPE | {"mrope_section": [2, 1, 1], "partial_rotary_factor": 0.5},
        num_attention_heads=3,
        num_key_value_heads=1,
    )
    vision = blocks(image_size=32, out_hidden_size=48, attention_bias=False)

    def config(self) -> PreTrainedConfig:
        return self.made(
            text_config=self.text,
            vision_config=self.vision,
            **PLACEHOLDERS,
            image_start_token_id=START,
            image_end_token_id=END,
            video_start_token_id=VOCAB - 6,
            video_end_token_id=VOCAB - 5,
        )

    def is_clip(self, model: PreTrainedModel, ids: Tensor) -> Tensor:
        begun = (ids == model.config.video_start_token_id).cumsum(dim=-1)
        ended = (ids == model.config.video_end_token_id).cumsum(dim=-1)
        return (ids == self.image_token_id(model)) & (begun > ended)

    def clip_ids(self, model: PreTrainedModel, clip: Image) -> list[int]:
        frames, high, wide = CLIPS[clip.kind]
        run = [START, *[self.image_token_id(model)] * (high * wide // 4), END]
        stamped = [token for frame in range(frames) for token in (*run, 20 + frame)]
        return [model.config.video_start_token_id, *stamped, model.config.video_end_token_id]


class Glm4vMoe(Glm4v):
    """The same with four experts, two of them active, after one dense layer."""

    name = "glm4v_moe"
    architecture = "Glm4vMoeForConditionalGeneration"
    text = Glm4v.text | routed() | {"first_k_dense_replace": 1}


class Glm46V(Glm4v):
    """The same parts behind a class of its own."""

    name = "glm46v"
    architecture = "Glm46VForConditionalGeneration"


class GlmOcr(Glm4v):
    """GLM-4V without position embeddings in the encoder, whose queries and keys have norms."""

    name = "glm_ocr"
    architecture = "GlmOcrForConditionalGeneration"
