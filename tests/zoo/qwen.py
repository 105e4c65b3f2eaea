"""The Qwen-VL line: packed patches, M-RoPE."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from .base import VOCAB, Image, Traits, flat
from .layouts import ClipEntry, StampedEntry
from .parts import (
    EXPERTS,
    LINEAR,
    QWEN3_VISION,
    SECTIONS,
    SPECIAL,
    STACKED,
    WINDOWED,
    interleaved,
    language,
)
from .reasons import MROPE, NO_ROLLBACK, PLACED_AS_TEXT


class Qwen2VL(ClipEntry):
    name = "qwen2_vl"
    traits = Traits(container="tuple", ragged=True, mrope=True, upstream=MROPE)
    architecture = "Qwen2VLForConditionalGeneration"

    def config(self) -> PreTrainedConfig:
        vision = {"embed_dim": 32, "hidden_size": 48, "mlp_ratio": 2, "depth": 3, "num_heads": 2}
        return self.made(
            text_config=language(rope_parameters=SECTIONS),
            vision_config=vision | {"patch_size": 4},
            **SPECIAL,
        )


class Qwen2_5VL(ClipEntry):
    """Windows of 2x2 visual tokens, the last of three blocks with full attention."""

    name = "qwen2_5_vl"
    traits = Traits(container="tuple", ragged=True, mrope=True, upstream=MROPE)
    architecture = "Qwen2_5_VLForConditionalGeneration"

    def config(self) -> PreTrainedConfig:
        return self.made(
            text_config=language(rope_parameters=SECTIONS),
            vision_config=WINDOWED,
            **SPECIAL,
        )

    def clip_inputs(
        self, model: PreTrainedModel, rows: Sequence[Sequence[Image]]
    ) -> dict[str, Any]:
        """Half a second or two between pairs of frames: some are placed after the next text."""
        seconds = [0.5 if clip.kind == "small" else 2.0 for clip in flat(rows)]
        return super().clip_inputs(model, rows) | {"second_per_grid_ts": torch.tensor(seconds)}


class Qwen3VL(StampedEntry):
    """DeepStack: three planes, added after the first three of four decoder layers."""

    name = "qwen3_vl"
    traits = Traits(container="tuple", ragged=True, mrope=True, deepstack=3, upstream=MROPE)
    architecture = "Qwen3VLForConditionalGeneration"
    text = language(rope_parameters=interleaved(4, 2, 2), head_dim=16)

    def config(self) -> PreTrainedConfig:
        return self.made(text_config=self.text, vision_config=STACKED, **SPECIAL)


class Qwen3VLMoe(Qwen3VL):
    """The same with four experts, two of them active."""

    name = "qwen3_vl_moe"
    architecture = "Qwen3VLMoeForConditionalGeneration"
    text = Qwen3VL.text | EXPERTS


class Qwen3_5(StampedEntry):
    """Gated delta-net layers with a full-attention layer after each three of them; no DeepStack."""

    name = "qwen3_5"
    traits = Traits(
        container="tuple",
        ragged=True,
        mrope=True,
        stateful=True,
        tolerance=5e-5,
        upstream=MROPE | NO_ROLLBACK,
    )
    architecture = "Qwen3_5ForConditionalGeneration"
    text = LINEAR

    def config(self) -> PreTrainedConfig:
        return self.made(text_config=self.text, vision_config=QWEN3_VISION, **SPECIAL)


class Qwen3_5Moe(Qwen3_5):
    """The same with four experts, two of them active."""

    name = "qwen3_5_moe"
    architecture = "Qwen3_5MoeForConditionalGeneration"
    text = LINEAR | EXPERTS | {"shared_expert_intermediate_size": 32}


AUDIO_START, AUDIO_END, AUDIO = range(VOCAB - 7, VOCAB - 4)

HEARING: dict[str, Any] = {
    "num_mel_bins": 8,
    "encoder_layers": 1,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 16,
    "d_model": 16,
    "max_source_positions": 16,
    "n_window": 4,
    "output_dim": 48,
}
"""The smallest audio tower: the tests play it little."""
SOUND: dict[str, Any] = {
    "audio_token_id": AUDIO,
    "audio_start_token_id": AUDIO_START,
    "audio_end_token_id": AUDIO_END,
}


class Thinker(ClipEntry):
    """A clip is one run of placeholders, `video_second_per_grid` between its pairs of frames."""

    typed = False

    def clip_inputs(
        self, model: PreTrainedModel, rows: Sequence[Sequence[Image]]
    ) -> dict[str, Any]:
        seconds = [0.5 if clip.kind == "small" else 0.1 for clip in flat(rows)]
        return super().clip_inputs(model, rows) | {"video_second_per_grid": torch.tensor(seconds)}


class Qwen2_5OmniThinker(Thinker):
    """Qwen2.5-VL's encoder and windows; 25 positions a second."""

    name = "qwen2_5_omni_thinker"
    traits = Traits(container="tuple", ragged=True, mrope=True, upstream=MROPE | PLACED_AS_TEXT)
    architecture = "Qwen2_5OmniThinkerForConditionalGeneration"

    def config(self) -> PreTrainedConfig:
        return self.made(
            text_config=language(rope_parameters=SECTIONS, tie_word_embeddings=False),
            vision_config=WINDOWED,
            audio_config=HEARING,
            **SPECIAL,
            **SOUND,
        )


class Qwen3OmniThinker(Thinker):
    """Qwen3-VL-MoE's parts with DeepStack; positions are fractions where seconds are."""

    name = "qwen3_omni_moe_thinker"
    traits = Traits(
        container="tuple", ragged=True, mrope=True, deepstack=3, upstream=MROPE | PLACED_AS_TEXT
    )
    architecture = "Qwen3OmniMoeThinkerForConditionalGeneration"

    def config(self) -> PreTrainedConfig:
        sound = {"n_window": 50, "n_window_infer": 100, "downsample_hidden_size": 8}
        return self.made(
            text_config=language(rope_parameters=interleaved(2, 2, 2), **EXPERTS),
            vision_config=STACKED,
            audio_config=HEARING | sound,
            **SPECIAL,
            **SOUND,
        )
