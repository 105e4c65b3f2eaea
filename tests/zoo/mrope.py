"""Other families with packed patches and M-RoPE."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from .base import RELEASE, VOCAB, Image, Traits
from .layouts import CLIPS, GRIDS, ClipEntry, Grid, PackedEntry, StampedEntry
from .parts import (
    END,
    IMAGE,
    PLACEHOLDERS,
    SECTIONS,
    SLIDING_THEN_FULL,
    SPECIAL,
    STACKED,
    START,
    VIDEO,
    blocks,
    interleaved,
    language,
    tower,
)
from .qwen import Qwen3VL
from .reasons import MROPE, PLACED_AS_TEXT


class CohereCompass(StampedEntry):
    """Qwen3-VL's encoder and DeepStack; three sliding layers with M-RoPE and a full one without."""

    name = "cohere_compass"
    traits = Traits(container="tuple", ragged=True, mrope=True, deepstack=3, upstream=MROPE)
    architecture = "CohereCompassForConditionalGeneration"
    clips_since = (5, 19)  # before, generate hands over pixels and features, which forward refuses

    def config(self) -> PreTrainedConfig:
        text = language(
            sliding_window=40,
            layer_types=SLIDING_THEN_FULL,
            rope_parameters={"sliding_attention": interleaved(2, 2, 2), "full_attention": None},
            logit_scale=0.9,
        )
        return self.made(
            text_config=text,
            vision_config=STACKED,
            **SPECIAL,
        )


class Cosmos3Omni(Qwen3VL):
    """Qwen3-VL's parts behind a class of its own."""

    name = "cosmos3_omni"
    architecture = "Cosmos3OmniForConditionalGeneration"


class Cosmos3Edge(StampedEntry):
    """A SigLIP 2 tower over packed patches, grouped by token; frames are not paired."""

    name = "cosmos3_edge"
    traits = Traits(container="tuple", ragged=True, mrope=True, upstream=MROPE | PLACED_AS_TEXT)
    architecture = "Cosmos3EdgeForConditionalGeneration"
    patch = (3 * 4 * 4,)

    def config(self) -> PreTrainedConfig:
        return self.made(
            text_config=language(head_dim=12, rope_parameters=SECTIONS),
            vision_config=tower(num_patches=64),
            projector_hidden_size=64,
            **SPECIAL,
        )


CLIP_START, CLIP_END = VOCAB - 6, VOCAB - 5


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
    architecture = "Ernie4_5_VLMoeForConditionalGeneration"
    patch = (3 * 4 * 4,)

    def config(self) -> PreTrainedConfig:
        text = language(
            rope_parameters=SECTIONS,
            moe_num_experts=4,
            moe_k=2,
            moe_intermediate_size=[32, 24],
            moe_num_shared_experts=1,
            tie_word_embeddings=False,
        )
        return self.made(
            text_config=text,
            vision_config=blocks(),
            **PLACEHOLDERS,
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

    def clip_grids(self, clip: Image) -> list[Grid]:
        """Frames come in pairs: twice as many as there are placeholders for."""
        frames, high, wide = CLIPS[clip.kind]
        return [(2 * frames, high, wide)]


class PaddleOCRVL(PackedEntry):
    """Patches in raster order, which the projector groups."""

    name = "paddleocr_vl"
    traits = Traits(container="tuple", ragged=True, mrope=True, upstream=MROPE)
    architecture = "PaddleOCRVLForConditionalGeneration"
    group = 1

    def config(self) -> PreTrainedConfig:
        return self.made(
            text_config=language(head_dim=12, rope_parameters=SECTIONS, tie_word_embeddings=False),
            vision_config=tower(image_size=32),
            tie_word_embeddings=False,
            **SPECIAL,
        )

    def visual_inputs(
        self, model: PreTrainedModel, rows: Sequence[Sequence[Image]]
    ) -> dict[str, Any]:
        made = super().visual_inputs(model, rows)
        values = made["pixel_values"][:, : 3 * 4 * 4]
        return made | {"pixel_values": values.reshape(-1, 3, 4, 4)}


class HunYuanVL(PackedEntry):
    """Patches in raster order; a begin, a newline after each row and an end among the features.

    Four axes of RoPE, of which the first is the place in the text and the last counts images.
    """

    name = "hunyuan_vl"
    traits = Traits(
        container="tuple" if RELEASE >= (5, 20) else "tensor",
        unit="image" if RELEASE >= (5, 20) else "batch",
        ragged=True,
        mrope=True,
        upstream={
            **MROPE,
            **PLACED_AS_TEXT,
            **dict.fromkeys(
                ("batch", "batch_forward", "right_padding"),
                "the last axis of RoPE counts the images of the whole batch, not of the row",
            ),
        },
    )
    architecture = "HunYuanVLForConditionalGeneration"
    group = 1
    patch = (3 * 4 * 4,)

    def config(self) -> PreTrainedConfig:
        text = language(
            head_dim=16,
            rope_parameters=SECTIONS | {"mrope_section": [2, 2, 2, 2]},
            tie_word_embeddings=False,
        )
        return self.made(
            text_config=text,
            vision_config=tower(out_hidden_size=48, max_image_size=32),
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
