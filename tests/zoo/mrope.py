"""More families with multimodal RoPE: a Qwen-VL or GLM-V prompt around other parts.

The thinkers of Qwen-Omni are shown images and clips; no test plays them anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import (
    CohereCompassConfig,
    CohereCompassForConditionalGeneration,
    Cosmos3EdgeConfig,
    Cosmos3EdgeForConditionalGeneration,
    Cosmos3OmniConfig,
    Cosmos3OmniForConditionalGeneration,
    Ernie4_5_VLMoeConfig,
    Ernie4_5_VLMoeForConditionalGeneration,
    GlmOcrConfig,
    GlmOcrForConditionalGeneration,
    HunYuanVLConfig,
    HunYuanVLForConditionalGeneration,
    PaddleOCRVLConfig,
    PaddleOCRVLForConditionalGeneration,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2_5OmniThinkerConfig,
    Qwen2_5OmniThinkerForConditionalGeneration,
    Qwen3OmniMoeThinkerConfig,
    Qwen3OmniMoeThinkerForConditionalGeneration,
)

from .base import RELEASE, VOCAB, Image, Traits, flat, pixels
from .qwen import (
    CLIPS,
    END,
    GRIDS,
    IMAGE,
    MROPE,
    QWEN3_VISION,
    SPECIAL,
    START,
    TEXT_CONFIG,
    VIDEO,
    ClipEntry,
    Glm4v,
    GridEntry,
    Qwen3VL,
    StampedEntry,
    interleaved,
)

CLIP_START, CLIP_END = VOCAB - 6, VOCAB - 5

EXIT = {
    "mrope_second_turn": "on a filled cache every new token is placed as text, images too, "
    "without a word: _prepare_position_ids_for_generation does not look for new images"
}

SECTIONS: dict[str, Any] = {
    "rope_type": "default",
    "rope_theta": 1e4,
    "mrope_section": [2, 2, 2],
}


class CohereCompass(StampedEntry):
    """Qwen3-VL's encoder and DeepStack; three sliding layers with M-RoPE and a full one without."""

    name = "cohere_compass"
    traits = Traits(container="tuple", ragged=True, mrope=True, deepstack=3, upstream=MROPE)
    model_class = CohereCompassForConditionalGeneration
    # generate of 5.18 hands a clip over as pixels and as features, which its forward refuses
    takes_clips = not transformers.__version__.startswith("5.18.")

    def config(self) -> PreTrainedConfig:
        text = TEXT_CONFIG | {
            "sliding_window": 40,
            "layer_types": ["sliding_attention"] * 3 + ["full_attention"],
            "rope_parameters": {
                "sliding_attention": interleaved(2, 2, 2),
                "full_attention": None,
            },
            "logit_scale": 0.9,
        }
        vision = QWEN3_VISION | {"deepstack_visual_indexes": [0, 1, 2]}
        return CohereCompassConfig(text_config=text, vision_config=vision, **SPECIAL)


class Cosmos3Omni(Qwen3VL):
    """Qwen3-VL's parts behind a class of its own."""

    name = "cosmos3_omni"
    model_class = Cosmos3OmniForConditionalGeneration

    def config(self) -> PreTrainedConfig:
        same = super().config().to_dict()
        text, vision = same["text_config"], same["vision_config"]
        return Cosmos3OmniConfig(text_config=text, vision_config=vision, **SPECIAL)


class Cosmos3Edge(StampedEntry):
    """A SigLIP 2 tower over packed patches, grouped by token; frames are not paired."""

    name = "cosmos3_edge"
    traits = Traits(container="tuple", ragged=True, mrope=True, upstream=MROPE | EXIT)
    model_class = Cosmos3EdgeForConditionalGeneration
    patch_values = 3 * 4 * 4

    def config(self) -> PreTrainedConfig:
        text = TEXT_CONFIG | {"head_dim": 12, "rope_parameters": SECTIONS}
        vision = {
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "patch_size": 4,
            "num_patches": 64,
        }
        return Cosmos3EdgeConfig(
            text_config=text, vision_config=vision, projector_hidden_size=64, **SPECIAL
        )


class Ernie4_5VLMoe(ClipEntry):
    """Experts for text and experts for what is shown; a resampler merges frames in pairs."""

    name = "ernie4_5_vl_moe"
    traits = Traits(
        container="tuple",
        ragged=True,
        mrope=True,
        upstream=MROPE
        | dict.fromkeys(
            ("no_cache", "assistant_model"),
            "does not lengthen moe_mm_token_type_ids by the new tokens",
        ),
    )
    model_class = Ernie4_5_VLMoeForConditionalGeneration
    patch_values = 3 * 4 * 4

    def config(self) -> PreTrainedConfig:
        text = TEXT_CONFIG | {
            "rope_parameters": SECTIONS,
            "moe_num_experts": 4,
            "moe_k": 2,
            "moe_intermediate_size": [32, 24],
            "moe_num_shared_experts": 1,
            "tie_word_embeddings": False,
        }
        vision = {
            "depth": 3,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_heads": 2,
            "patch_size": 4,
        }
        return Ernie4_5_VLMoeConfig(
            text_config=text,
            vision_config=vision,
            image_token_id=IMAGE,
            video_token_id=VIDEO,
            image_start_token_id=START,
            image_end_token_id=END,
            video_start_token_id=CLIP_START,
            video_end_token_id=CLIP_END,
            tie_word_embeddings=False,
        )

    def token_inputs(self, model: PreTrainedModel, ids: Tensor, mask: Tensor) -> dict[str, Any]:
        """Types of the placeholders, and types that pick the experts: marks around them too."""
        types = super().token_inputs(model, ids, mask)
        image = torch.isin(ids, torch.tensor([IMAGE, START, END]))
        clip = torch.isin(ids, torch.tensor([VIDEO, CLIP_START, CLIP_END]))
        return types | {"moe_mm_token_type_ids": image.int() + 2 * clip.int()}

    def clip_ids(self, model: PreTrainedModel, clip: Image) -> list[int]:
        return [CLIP_START, *[VIDEO] * self.clip_counts(model, clip), CLIP_END]

    def clip_inputs(
        self, model: PreTrainedModel, rows: Sequence[Sequence[Image]]
    ) -> dict[str, Any]:
        """Frames come in pairs: twice as many as there are placeholders for."""
        clips = flat(rows)
        grids = torch.tensor([CLIPS[clip.kind] for clip in clips]) * torch.tensor([2, 1, 1])
        values = [
            pixels(clip, int(grid.prod()), self.patch_values, part="clip")
            for clip, grid in zip(clips, grids, strict=True)
        ]
        return {"pixel_values_videos": torch.cat(values), "video_grid_thw": grids}


class PaddleOCRVL(GridEntry):
    """Patches in raster order, which the projector groups."""

    name = "paddleocr_vl"
    traits = Traits(container="tuple", ragged=True, raster=True, mrope=True, upstream=MROPE)
    model_class = PaddleOCRVLForConditionalGeneration

    def config(self) -> PreTrainedConfig:
        text = TEXT_CONFIG | {
            "head_dim": 12,
            "rope_parameters": SECTIONS,
            "tie_word_embeddings": False,
        }
        vision = {
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "image_size": 32,
            "patch_size": 4,
        }
        return PaddleOCRVLConfig(
            text_config=text, vision_config=vision, tie_word_embeddings=False, **SPECIAL
        )

    def visual_inputs(
        self, model: PreTrainedModel, rows: Sequence[Sequence[Image]]
    ) -> dict[str, Any]:
        made = super().visual_inputs(model, rows)
        values = made["pixel_values"][:, : 3 * 4 * 4]
        return made | {"pixel_values": values.reshape(-1, 3, 4, 4)}


class GlmOcr(Glm4v):
    """GLM-4V without position embeddings in the encoder, whose queries and keys have norms."""

    name = "glm_ocr"
    model_class = GlmOcrForConditionalGeneration

    def config(self) -> PreTrainedConfig:
        same = super().config().to_dict()
        shared = {name: same[name] for name in same if name.endswith("_token_id")}
        text, vision = same["text_config"], same["vision_config"]
        for part in (text, vision):
            del part["model_type"]
        return GlmOcrConfig(text_config=text, vision_config=vision, **shared)


class HunYuanVL(GridEntry):
    """Patches in raster order; a begin, a newline after each row and an end among the features.

    Four axes of RoPE, of which the first is the place in the text and the last counts images.
    """

    name = "hunyuan_vl"
    traits = Traits(
        container="tuple" if RELEASE >= (5, 20) else "tensor",
        unit="image" if RELEASE >= (5, 20) else "batch",
        ragged=True,
        raster=True,
        mrope=True,
        upstream={
            **MROPE,
            **EXIT,
            **dict.fromkeys(
                ("batch", "batch_forward", "right_padding"),
                "the last axis of RoPE counts the images of the whole batch, not of the row",
            ),
        },
    )
    model_class = HunYuanVLForConditionalGeneration
    patch_values = 3 * 4 * 4

    def config(self) -> PreTrainedConfig:
        text = TEXT_CONFIG | {
            "head_dim": 16,
            "rope_parameters": SECTIONS | {"mrope_section": [2, 2, 2, 2]},
            "tie_word_embeddings": False,
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
        return HunYuanVLConfig(
            text_config=text,
            vision_config=vision,
            image_token_id=IMAGE,
            im_start_id=START,
            im_end_id=END,
            im_newline_id=VIDEO,
            tie_word_embeddings=False,
        )

    def counts(self, model: PreTrainedModel, image: Image, alone: bool = True) -> int:
        _, high, wide = GRIDS[image.kind]
        return high // 2 * (wide // 2 + 1) + 2

    def placed(self, places: Tensor, earlier: int) -> Tensor:
        """The last axis counts the images of the whole batch, where it differs from the first."""
        numbered = places[-1:] + earlier * (places != places[:1]).any(dim=0)
        return torch.cat([places[:-1], numbered])


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
"""The smallest audio tower: no test plays it anything."""
SOUND: dict[str, Any] = {
    "audio_token_id": AUDIO,
    "audio_start_token_id": AUDIO_START,
    "audio_end_token_id": AUDIO_END,
}


class Thinker(ClipEntry):
    """A clip is one run of placeholders, `video_second_per_grid` between its pairs of frames."""

    def token_inputs(self, model: PreTrainedModel, ids: Tensor, mask: Tensor) -> dict[str, Any]:
        return {}

    def clip_inputs(
        self, model: PreTrainedModel, rows: Sequence[Sequence[Image]]
    ) -> dict[str, Any]:
        seconds = [0.5 if clip.kind == "small" else 0.1 for clip in flat(rows)]
        return super().clip_inputs(model, rows) | {"video_second_per_grid": torch.tensor(seconds)}


class Qwen2_5OmniThinker(Thinker):
    """Qwen2.5-VL's encoder and windows; 25 positions a second."""

    name = "qwen2_5_omni_thinker"
    traits = Traits(container="tuple", ragged=True, mrope=True, upstream=MROPE | EXIT)
    model_class = Qwen2_5OmniThinkerForConditionalGeneration

    def config(self) -> PreTrainedConfig:
        vision = {
            "depth": 3,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_heads": 2,
            "patch_size": 4,
            "window_size": 16,
            "out_hidden_size": 48,
            "fullatt_block_indexes": [2],
        }
        rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 2, 2]}
        text = TEXT_CONFIG | {"rope_parameters": rope, "tie_word_embeddings": False}
        return Qwen2_5OmniThinkerConfig(
            text_config=text, vision_config=vision, audio_config=HEARING, **SPECIAL, **SOUND
        )


class Qwen3OmniThinker(Thinker):
    """Qwen3-VL-MoE's parts with DeepStack; positions are fractions where seconds are."""

    name = "qwen3_omni_moe_thinker"
    traits = Traits(container="tuple", ragged=True, mrope=True, deepstack=3, upstream=MROPE | EXIT)
    model_class = Qwen3OmniMoeThinkerForConditionalGeneration

    def config(self) -> PreTrainedConfig:
        text = TEXT_CONFIG | {
            "rope_parameters": interleaved(2, 2, 2),
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
        }
        vision = QWEN3_VISION | {"deepstack_visual_indexes": [0, 1, 2]}
        audio = HEARING | {
            "n_window": 50,
            "n_window_infer": 100,
            "downsample_hidden_size": 8,
        }
        return Qwen3OmniMoeThinkerConfig(
            text_config=text, vision_config=vision, audio_config=audio, **SPECIAL, **SOUND
        )
