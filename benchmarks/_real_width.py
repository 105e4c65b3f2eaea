"""The configuration of a LLaVA of LLaVA-1.5-7B's widths, with as many layers as are wanted."""

from __future__ import annotations

from typing import Any

from transformers import LlavaConfig

SIDE = 336
"""Pixels of CLIP-L's images, 24 x 24 patches."""


def real_width_config(layers: int, tower_layers: int, vocabulary: int, image_token: int) -> Any:
    """Return it; of the tower's layers the last but one is used.

    Parameters
    ----------
    layers, tower_layers : int
        Of the language model, of 32, and of the vision tower, of 24.
    vocabulary, image_token : int
        Size of the one, and the id of the image's placeholder in it.
    """
    return LlavaConfig(
        vision_config={
            "model_type": "clip_vision_model",
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": tower_layers,
            "num_attention_heads": 16,
            "image_size": SIDE,
            "patch_size": 14,
            "projection_dim": 768,
        },
        text_config={
            "model_type": "llama",
            "hidden_size": 4096,
            "intermediate_size": 11008,
            "num_hidden_layers": layers,
            "num_attention_heads": 32,
            "vocab_size": vocabulary,
            "max_position_embeddings": 4096,
        },
        image_token_id=image_token,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        architectures=["LlavaForConditionalGeneration"],
    )
