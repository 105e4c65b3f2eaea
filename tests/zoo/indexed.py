"""Families whose decoder picks the keys that it attends to and carries several streams."""

from __future__ import annotations

from transformers import PreTrainedConfig, PreTrainedModel

from .base import Image, Traits
from .glm import Glm4v
from .layouts import CLIPS, GRIDS, ClipEntry, StampedEntry
from .parts import LINEAR, PLACEHOLDERS, QWEN3_VISION, SECTIONS, SPECIAL, language, routed, tower
from .reasons import MROPE, NO_ROLLBACK


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
            **NO_ROLLBACK,
            "expansion": "interleaves the images of a row: A A B B, not A B A B; "
            "looks for clips at video_token_id, which its prompts do not have",
        },
    )
    architecture = "Glm5NextForConditionalGeneration"
    mixes = True

    text = language(
        num_key_value_heads=4,
        **routed(24),
        q_lora_rank=24,
        kv_lora_rank=16,
        qk_nope_head_dim=12,
        v_head_dim=12,
        index_topk=16,
        index_kpool=4,
        index_head_dim=16,
        index_n_heads=16,
        linear_head_dim=8,
        linear_num_heads=2,
        hc_mult=2,
    )
    vision = Glm4v.vision | {"projection_intermediate_size": 64}


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
        upstream=MROPE | NO_ROLLBACK,
    )
    architecture = "Qwen4ExpForConditionalGeneration"

    def config(self) -> PreTrainedConfig:
        text = LINEAR | dict(
            moe_intermediate_size=24,
            shared_expert_intermediate_size=24,
            num_experts=4,
            num_experts_per_tok=2,
            hc_count=2,
            hc_lowrank=16,
            ple_layer_ids=[2],
            ngram_vocab_size_base=50,
            make_ngram_vocab_size_divisible_by=8,
            heads_per_ngram=2,
            indexer_n_heads=8,
            indexer_kv_heads=1,
            indexer_head_dim=8,
            indexer_budget=24,
            indexer_compress_ratio=4,
        )
        return self.made(text_config=text, vision_config=QWEN3_VISION, **SPECIAL)

    def redraw(self, model: PreTrainedModel, seed: int) -> None:
        """The streams are averaged under gates that are half open, so the head makes up for it."""
        super().redraw(model, seed)
        model.get_output_embeddings().weight.mul_(2.0)


class HYV4VL(ClipEntry):
    """Patches in raster order, a newline after each row of tokens; latent keys, two streams."""

    name = "hy_v4_vl"
    traits = Traits(container="tuple", ragged=True, mrope=True, sealed="indexer", upstream=MROPE)
    architecture = "HYV4VLForConditionalGeneration"
    group = 1
    since = (5, 24)
    patch = (3 * 4 * 4,)

    def config(self) -> PreTrainedConfig:
        text = language(
            **routed(24),
            q_lora_rank=24,
            kv_lora_rank=16,
            qk_nope_head_dim=8,
            qk_rope_head_dim=12,
            v_head_dim=8,
            index_topk=32,
            index_head_dim=16,
            index_n_heads=16,
            hc_mult=2,
            rope_parameters=SECTIONS,
        )
        return self.made(
            text_config=text,
            vision_config=tower(out_hidden_size=48, max_image_size=32),
            **PLACEHOLDERS,
        )

    def attention(self, implementation: str) -> str | dict[str, str]:
        """The decoder runs eagerly in any case: its attention sinks have no place in SDPA."""
        return {"": "eager", "text_config": "eager", "vision_config": implementation}

    def counts(self, model: PreTrainedModel, image: Image, alone: bool = True) -> int:
        return rows_with_newlines(GRIDS[image.kind])

    def clip_counts(self, model: PreTrainedModel, clip: Image) -> int:
        return rows_with_newlines(CLIPS[clip.kind])


def rows_with_newlines(grid: tuple[int, int, int]) -> int:
    frames, high, wide = grid
    return frames * (high // 2) * (wide // 2 + 1)
