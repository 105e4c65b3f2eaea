"""Hy4-VL, new in transformers 5.24: several residual streams, and keys picked from latent ones."""

from __future__ import annotations

from transformers import (
    HYV4VLConfig,
    HYV4VLForConditionalGeneration,
    PreTrainedConfig,
    PreTrainedModel,
)

from .base import Image, Traits
from .mrope import SECTIONS
from .qwen import CLIPS, GRIDS, IMAGE, MROPE, TEXT_CONFIG, VIDEO, ClipEntry


class HYV4VL(ClipEntry):
    """Patches in raster order, a newline after each row of tokens; latent keys, two streams."""

    name = "hy_v4_vl"
    traits = Traits(container="tuple", ragged=True, mrope=True, sealed="indexer", upstream=MROPE)
    model_class = HYV4VLForConditionalGeneration
    patch_values = 3 * 4 * 4
    group = 1

    def config(self) -> PreTrainedConfig:
        text = TEXT_CONFIG | {
            "moe_intermediate_size": 24,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "q_lora_rank": 24,
            "kv_lora_rank": 16,
            "qk_nope_head_dim": 8,
            "qk_rope_head_dim": 12,
            "v_head_dim": 8,
            "index_topk": 32,
            "index_head_dim": 16,
            "index_n_heads": 16,
            "hc_mult": 2,
            "rope_parameters": SECTIONS,
        }
        vision = {
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "out_hidden_size": 48,
            "patch_size": 4,
            "max_image_size": 32,
        }
        return HYV4VLConfig(
            text_config=text, vision_config=vision, image_token_id=IMAGE, video_token_id=VIDEO
        )

    def build(self, seed: int = 0, attn_implementation: str = "sdpa") -> PreTrainedModel:
        """The decoder runs eagerly in any case: its attention sinks have no place in SDPA."""
        parts = {"": "eager", "text_config": "eager", "vision_config": attn_implementation}
        return super().build(seed, parts)  # type: ignore[arg-type]

    def counts(self, model: PreTrainedModel, image: Image, alone: bool = True) -> int:
        return rows_with_newlines(GRIDS[image.kind])

    def clip_counts(self, model: PreTrainedModel, clip: Image) -> int:
        return rows_with_newlines(CLIPS[clip.kind])


def rows_with_newlines(grid: tuple[int, int, int]) -> int:
    frames, high, wide = grid
    return frames * (high // 2) * (wide // 2 + 1)
