"""What tiny models are made of: ids, and the numbers of towers and language models."""

from __future__ import annotations

from typing import Any

from transformers import (
    CLIPVisionConfig,
    Cohere2Config,
    LlamaConfig,
    PixtralVisionConfig,
    Qwen2Config,
    SiglipVisionConfig,
)

from .base import BOS, EOS, PAD, VOCAB

START, END, VIDEO, IMAGE = range(VOCAB - 4, VOCAB)
"""Marks around an image or clip, and the placeholders of both."""
OPEN, CLOSE = VOCAB - 3, VOCAB - 2
"""The marks in families that have no placeholder of clips."""

PLACEHOLDERS: dict[str, Any] = {"image_token_id": IMAGE, "video_token_id": VIDEO}
SPECIAL = PLACEHOLDERS | {"vision_start_token_id": START, "vision_end_token_id": END}


# ---- language models -----------------------------------------------------------------------


def language(**options: Any) -> dict[str, Any]:
    """A language model of four layers, its other settings in `options`."""
    return {
        "vocab_size": VOCAB,
        "hidden_size": 48,
        "intermediate_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "pad_token_id": PAD,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
    } | options


def llama(layers: int = 3) -> LlamaConfig:
    return LlamaConfig(**language(num_hidden_layers=layers))


def qwen2(layers: int = 3) -> Qwen2Config:
    return Qwen2Config(**language(num_hidden_layers=layers))


def cohere2() -> Cohere2Config:
    """Three sliding layers with RoPE and a full layer without."""
    return Cohere2Config(
        **language(sliding_window=40, layer_types=SLIDING_THEN_FULL, tie_word_embeddings=False)
    )


SLIDING_THEN_FULL = ["sliding_attention"] * 3 + ["full_attention"]
DENSE_THEN_SPARSE = ["dense"] + ["sparse"] * 3

ROPE: dict[str, Any] = {"rope_type": "default", "rope_theta": 1e4}
SECTIONS = ROPE | {"mrope_section": [2, 2, 2]}


def interleaved(*section: int) -> dict[str, Any]:
    """M-RoPE whose axes take turns along a head."""
    return ROPE | {"mrope_section": list(section), "mrope_interleaved": True}


EXPERTS: dict[str, Any] = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
}


def routed(width: int = 32) -> dict[str, Any]:
    """Four experts, two of them active, as DeepSeek's line calls them."""
    return {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": width}


LINEAR = language(
    rope_parameters=interleaved(2, 1, 1) | {"partial_rotary_factor": 0.5},
    head_dim=16,
    linear_key_head_dim=8,
    linear_value_head_dim=8,
    linear_num_key_heads=2,
    linear_num_value_heads=4,
)
"""Qwen3.5's: gated delta-net layers, a full-attention layer after each three of them."""


# ---- towers --------------------------------------------------------------------------------


def tower(**options: Any) -> dict[str, Any]:
    """Three layers on patches of 4x4 pixels, as most configurations call them."""
    return {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "patch_size": 4,
    } | options


def blocks(**options: Any) -> dict[str, Any]:
    """The same, as the Qwen-VL line calls them."""
    return {
        "depth": 3,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 2,
        "patch_size": 4,
    } | options


WINDOWED = blocks(window_size=16, out_hidden_size=48, fullatt_block_indexes=[2])
"""Qwen2.5-VL's: windows of 2x2 visual tokens, the last of three blocks attends to all."""
QWEN3_VISION = blocks(depth=4, out_hidden_size=48, num_position_embeddings=64)
STACKED = QWEN3_VISION | {"deepstack_visual_indexes": [0, 1, 2]}
"""The same with three DeepStack planes."""


def clip(image_size: int, layers: int = 3) -> CLIPVisionConfig:
    options = tower(num_hidden_layers=layers, image_size=image_size, projection_dim=16)
    return CLIPVisionConfig(**options)


def siglip(image_size: int, layers: int = 3) -> SiglipVisionConfig:
    options = tower(num_hidden_layers=layers, image_size=image_size, vision_use_head=False)
    return SiglipVisionConfig(**options)


def pixtral() -> PixtralVisionConfig:
    return PixtralVisionConfig(**tower(image_size=64))


def sam(**options: Any) -> dict[str, Any]:
    """SAM's: the second layer is global, the others see windows."""
    return {
        "hidden_size": 32,
        "output_channels": 16,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 2,
        "window_size": 8,
        "global_attn_indexes": [1],
        "mlp_dim": 48,
    } | options


def quantiser(**options: Any) -> dict[str, Any]:
    """A convolutional encoder that chooses codes of a book."""
    return {
        "latent_channels": 8,
        "base_channels": 32,
        "channel_multiplier": [1, 1, 1],
        "num_res_blocks": 1,
    } | options
