"""Models that hear too, which transformers has since 5.23: their audio towers are built, idle."""

from __future__ import annotations

from typing import Any

from transformers import (
    Dots3NoteConfig,
    Dots3NoteForConditionalGeneration,
    MuseSparkConfig,
    MuseSparkForConditionalGeneration,
    PreTrainedConfig,
)

from .base import VOCAB, Traits
from .patches import PLACEHOLDERS, MuseGlimmer, Untyped
from .qwen import TEXT_CONFIG

AUDIO = VOCAB - 8


class Dots3Note(Untyped):
    """Latent attention that reads the best `index_topk` keys; a mixture in both models."""

    name = "dots3_note"
    traits = Traits(container="tuple", ragged=True)
    model_class = Dots3NoteForConditionalGeneration
    patch_values = 3 * 4 * 4

    def config(self) -> PreTrainedConfig:
        vision = {
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "patch_size": 4,
            "moe_intermediate_size": 32,
            "mlp_layer_types": ["dense", "dense", "sparse"],
            "num_local_experts": 4,
            "adapter_in_dim": 32,
            "adapter_out_dim": 48,
        }
        latent = {
            "q_lora_rank": 24,
            "kv_lora_rank": 16,
            "qk_nope_head_dim": 8,
            "v_head_dim": 12,
            "head_dim": 16,
        }
        text = (
            TEXT_CONFIG
            | latent
            | {
                "num_key_value_heads": 4,
                "moe_intermediate_size": 32,
                "shared_experts_intermediate_size": 32,
                "n_routed_experts": 4,
                "num_experts_per_tok": 2,
                "qk_rope_head_dim": 8,
                "index_topk": 48,
                "index_head_dim": 16,
                "index_n_heads": 4,
                "sliding_window": 24,
            }
        )
        text |= {f"swa_{name}": value for name, value in latent.items()}
        text |= {"swa_num_attention_heads": 2, "swa_num_key_value_heads": 2}
        audio = {
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "feature_size": 16,
            "downsample_hidden_size": 8,
            "adapter_input_size": 32,
            "adapter_out_dim": 48,
        }
        return Dots3NoteConfig(
            vision_config=vision,
            text_config=text,
            audio_config=audio,
            audio_token_id=AUDIO,
            **PLACEHOLDERS,
        )


class MuseSpark(MuseGlimmer):
    """Muse Glimmer with a mixture of experts and gated residuals."""

    name = "muse_spark"
    model_class = MuseSparkForConditionalGeneration

    def config(self) -> PreTrainedConfig:
        text = self.text() | {
            "moe_intermediate_size": 32,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "moe_hidden_size": 32,
            "mlp_layer_types": ["dense", "sparse", "sparse", "sparse"],
        }
        audio: dict[str, Any] = {
            "patch_sizes": [4],
            "hidden_sizes": [16],
            "depths": [1],
            "num_hidden_layers": 1,
            "out_hidden_size": 48,
        }
        return MuseSparkConfig(
            vision_config=self.vision(),
            text_config=text,
            audio_config=audio,
            audio_token_id=AUDIO,
            out_hidden_size=128,
            projector_hidden_size=48,
            **PLACEHOLDERS,
        )
