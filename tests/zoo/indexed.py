"""Families whose decoder carries several residual streams and picks the keys it attends to."""

from __future__ import annotations

from typing import Any

from transformers import (
    Glm5NextConfig,
    Glm5NextForConditionalGeneration,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen4ExpConfig,
    Qwen4ExpForConditionalGeneration,
)

from .base import Traits
from .qwen import (
    MROPE,
    QWEN3_VISION,
    SPECIAL,
    TEXT_CONFIG,
    Glm4v,
    StampedEntry,
    interleaved,
)

ROLLBACK = {"assisted": "refused: its state cannot be rolled back"}


class Glm5Next(Glm4v):
    """Three layers of linear attention, then latent keys picked in pools; no positions at all."""

    name = "glm5_next"
    traits = Traits(
        container="tuple",
        ragged=True,
        positions=False,
        sealed="indexer",
        stateful=True,
        upstream={
            **ROLLBACK,
            "expansion": "interleaves the images of a row: A A B B, not A B A B; "
            "looks for clips at video_token_id, which its prompts do not have",
        },
    )
    model_class = Glm5NextForConditionalGeneration
    mixes = True

    def config(self) -> PreTrainedConfig:
        same = super().config().to_dict()
        shared = {name: same[name] for name in same if name.endswith("_token_id")}
        text: dict[str, Any] = TEXT_CONFIG | {
            "num_key_value_heads": 4,
            "moe_intermediate_size": 24,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "q_lora_rank": 24,
            "kv_lora_rank": 16,
            "qk_nope_head_dim": 12,
            "v_head_dim": 12,
            "index_topk": 16,
            "index_kpool": 4,
            "index_head_dim": 16,
            "index_n_heads": 16,
            "linear_head_dim": 8,
            "linear_num_heads": 2,
            "hc_mult": 2,
        }
        vision = same["vision_config"] | {"projection_intermediate_size": 64}
        del vision["model_type"]
        return Glm5NextConfig(text_config=text, vision_config=vision, **shared)


class Qwen4Exp(StampedEntry):
    """Qwen3.5's layers with two streams, an n-gram embedding of the ids, and picked keys."""

    name = "qwen4_exp"
    traits = Traits(
        container="tuple",
        ragged=True,
        mrope=True,
        sealed="indexer",
        stateful=True,
        tolerance=5e-5,
        upstream=MROPE | ROLLBACK,
    )
    model_class = Qwen4ExpForConditionalGeneration

    def config(self) -> PreTrainedConfig:
        text = TEXT_CONFIG | {
            "rope_parameters": interleaved(2, 1, 1) | {"partial_rotary_factor": 0.5},
            "head_dim": 16,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "moe_intermediate_size": 24,
            "shared_expert_intermediate_size": 24,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "hc_count": 2,
            "hc_lowrank": 16,
            "ple_layer_ids": [2],
            "ngram_vocab_size_base": 50,
            "make_ngram_vocab_size_divisible_by": 8,
            "heads_per_ngram": 2,
            "indexer_n_heads": 8,
            "indexer_kv_heads": 1,
            "indexer_head_dim": 8,
            "indexer_budget": 24,
            "indexer_compress_ratio": 4,
        }
        return Qwen4ExpConfig(text_config=text, vision_config=QWEN3_VISION, **SPECIAL)

    def redraw(self, model: PreTrainedModel, seed: int) -> None:
        """The streams are averaged under gates that are half open, so the head makes up for it."""
        super().redraw(model, seed)
        model.get_output_embeddings().weight.mul_(2.0)
