"""Models with multimodal RoPE: the Qwen-VL line and GLM-4V."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import (
    Glm4vConfig,
    Glm4vForConditionalGeneration,
    Glm4vMoeConfig,
    Glm4vMoeForConditionalGeneration,
    Glm46VConfig,
    Glm46VForConditionalGeneration,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen3_5Config,
    Qwen3_5ForConditionalGeneration,
    Qwen3_5MoeConfig,
    Qwen3_5MoeForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLMoeConfig,
    Qwen3VLMoeForConditionalGeneration,
)

from .base import (
    VOCAB,
    Corner,
    Image,
    Kind,
    Traits,
    VideoEntry,
    ZooEntry,
    flat,
    patch_at,
    pixels,
)

START, END, VIDEO, IMAGE = range(VOCAB - 4, VOCAB)

GRIDS: dict[Kind, tuple[int, int, int]] = {
    "small": (1, 4, 6),
    "square": (1, 12, 12),
    "wide": (1, 8, 16),
    "tall": (1, 16, 6),
}
"""Patches per image (t, h, w); four patches become one visual token."""

TEXT_CONFIG: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
SPECIAL: dict[str, Any] = {
    "image_token_id": IMAGE,
    "video_token_id": VIDEO,
    "vision_start_token_id": START,
    "vision_end_token_id": END,
}


QWEN3_VISION: dict[str, Any] = {
    "depth": 4,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_heads": 2,
    "patch_size": 4,
    "out_hidden_size": 48,
    "num_position_embeddings": 64,
}


def interleaved(*section: int) -> dict[str, Any]:
    return {
        "rope_type": "default",
        "rope_theta": 1e4,
        "mrope_section": list(section),
        "mrope_interleaved": True,
    }


MROPE = {
    "second_turn": "positions need the grids of all images, the encoder those of the new ones; "
    "mm_encoder_outputs of the new image with the grids of all images works"
}


CLIPS: dict[Kind, tuple[int, int, int]] = {
    "small": (1, 4, 6),
    "square": (2, 8, 8),
    "wide": (3, 4, 8),
    "tall": (3, 8, 4),
}
"""Patches per clip: pairs of frames, rows, columns."""


class GridEntry(ZooEntry):
    """Patches of all images in one sequence, their grids beside them."""

    wrap = ((START,), (END,))
    bos = False
    feature_arguments = ("pixel_values", "image_grid_thw")
    patch_values = 3 * 2 * 4 * 4
    group = 2
    """Patches that make a token stand together, so many by so many; 1: in raster order."""

    def paint(self, values: Tensor, inputs: Mapping[str, Any], corner: Corner, clips: bool) -> None:
        grid = inputs["video_grid_thw" if clips else "image_grid_thw"][0]
        values[patch_at(corner, grid, self.group)] += 3.0

    def counts(self, model: PreTrainedModel, image: Image, alone: bool = True) -> int:
        return int(torch.tensor(GRIDS[image.kind]).prod()) // 4

    def token_inputs(self, model: PreTrainedModel, ids: Tensor, mask: Tensor) -> dict[str, Any]:
        return {"mm_token_type_ids": (ids == self.image_token_id(model)).int()}

    def visual_inputs(
        self, model: PreTrainedModel, rows: Sequence[Sequence[Image]]
    ) -> dict[str, Any]:
        images = flat(rows)
        grids = torch.tensor([GRIDS[image.kind] for image in images])
        values = [
            pixels(image, int(grid.prod()), self.patch_values)
            for image, grid in zip(images, grids, strict=True)
        ]
        return {"pixel_values": torch.cat(values), "image_grid_thw": grids}


class ClipEntry(GridEntry, VideoEntry):
    """The same for clips."""

    clip_arguments = ("pixel_values_videos", "video_grid_thw")

    @property
    def video_traits(self) -> Traits:  # type: ignore[override]
        return self.traits

    def token_inputs(self, model: PreTrainedModel, ids: Tensor, mask: Tensor) -> dict[str, Any]:
        clip = self.is_clip(model, ids)
        image = (ids == self.image_token_id(model)) & ~clip
        return {"mm_token_type_ids": image.int() + 2 * clip.int()}

    def clip_counts(self, model: PreTrainedModel, clip: Image) -> int:
        return int(torch.tensor(CLIPS[clip.kind]).prod()) // 4

    def clip_inputs(
        self, model: PreTrainedModel, rows: Sequence[Sequence[Image]]
    ) -> dict[str, Any]:
        clips = flat(rows)
        grids = torch.tensor([CLIPS[clip.kind] for clip in clips])
        values = [
            pixels(clip, int(grid.prod()), self.patch_values, part="clip")
            for clip, grid in zip(clips, grids, strict=True)
        ]
        return {"pixel_values_videos": torch.cat(values), "video_grid_thw": grids}


class StampedEntry(ClipEntry):
    """A run of placeholders for each pair of frames, after the time that it shows."""

    @property
    def video_traits(self) -> Traits:  # type: ignore[override]
        return replace(self.traits, gap_tokens=True)

    def clip_ids(self, model: PreTrainedModel, clip: Image) -> list[int]:
        frames, high, wide = CLIPS[clip.kind]
        run = [START, *[int(model.config.video_token_id)] * (high * wide // 4), END]
        return [token for frame in range(frames) for token in (20 + frame, *run)]


class Qwen2VL(ClipEntry):
    name = "qwen2_vl"
    traits = Traits(container="tuple", ragged=True, mrope=True, upstream=MROPE)
    model_class = Qwen2VLForConditionalGeneration

    def config(self) -> PreTrainedConfig:
        vision = {
            "depth": 3,
            "embed_dim": 32,
            "hidden_size": 48,
            "mlp_ratio": 2,
            "num_heads": 2,
            "patch_size": 4,
        }
        rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 2, 2]}
        text = TEXT_CONFIG | {"rope_parameters": rope}
        return Qwen2VLConfig(text_config=text, vision_config=vision, **SPECIAL)


class Qwen2_5VL(ClipEntry):
    """Windows of 2x2 visual tokens, the last of three blocks with full attention."""

    name = "qwen2_5_vl"
    traits = Traits(container="tuple", ragged=True, mrope=True, upstream=MROPE)
    model_class = Qwen2_5_VLForConditionalGeneration

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
        text = TEXT_CONFIG | {"rope_parameters": rope}
        return Qwen2_5_VLConfig(text_config=text, vision_config=vision, **SPECIAL)

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
    model_class = Qwen3VLForConditionalGeneration

    def config(self) -> PreTrainedConfig:
        text = TEXT_CONFIG | {"rope_parameters": interleaved(4, 2, 2), "head_dim": 16}
        vision = QWEN3_VISION | {"deepstack_visual_indexes": [0, 1, 2]}
        return Qwen3VLConfig(text_config=text, vision_config=vision, **SPECIAL)


EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
LINEAR = TEXT_CONFIG | {
    "rope_parameters": interleaved(2, 1, 1) | {"partial_rotary_factor": 0.5},
    "head_dim": 16,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
}


class Qwen3VLMoe(Qwen3VL):
    """The same with four experts, two of them active."""

    name = "qwen3_vl_moe"
    model_class = Qwen3VLMoeForConditionalGeneration

    def config(self) -> PreTrainedConfig:
        text = TEXT_CONFIG | {
            "rope_parameters": interleaved(4, 2, 2),
            "head_dim": 16,
            **EXPERTS,
        }
        vision = QWEN3_VISION | {"deepstack_visual_indexes": [0, 1, 2]}
        return Qwen3VLMoeConfig(text_config=text, vision_config=vision, **SPECIAL)


class Qwen3_5(StampedEntry):
    """Gated delta-net layers with a full-attention layer after each three of them; no DeepStack."""

    name = "qwen3_5"
    traits = Traits(
        container="tuple",
        ragged=True,
        mrope=True,
        stateful=True,
        tolerance=5e-5,
        upstream=MROPE | {"assisted": "refused: its state cannot be rolled back"},
    )
    model_class = Qwen3_5ForConditionalGeneration

    def config(self) -> PreTrainedConfig:
        return Qwen3_5Config(text_config=LINEAR, vision_config=QWEN3_VISION, **SPECIAL)


class Qwen3_5Moe(Qwen3_5):
    """The same with four experts, two of them active."""

    name = "qwen3_5_moe"
    model_class = Qwen3_5MoeForConditionalGeneration

    def config(self) -> PreTrainedConfig:
        text = LINEAR | EXPERTS | {"shared_expert_intermediate_size": 32}
        return Qwen3_5MoeConfig(text_config=text, vision_config=QWEN3_VISION, **SPECIAL)


class Glm4v(ClipEntry):
    """The merger is a 2x2 convolution before an MLP; the text rotates half of every head."""

    name = "glm4v"
    mixes = False
    traits = Traits(
        container="tuple",
        ragged=True,
        mrope=True,
        upstream=MROPE | {"expansion": "interleaves the images of a row: A A B B, not A B A B"},
    )
    model_class = Glm4vForConditionalGeneration
    config_class: type[PreTrainedConfig] = Glm4vConfig
    experts: Mapping[str, Any] = {}

    def config(self) -> PreTrainedConfig:
        vision = {
            "depth": 3,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_heads": 2,
            "image_size": 32,
            "patch_size": 4,
            "out_hidden_size": 48,
        }
        rope = {
            "rope_type": "default",
            "rope_theta": 1e4,
            "mrope_section": [2, 1, 1],
            "partial_rotary_factor": 0.5,
        }
        text = TEXT_CONFIG | {"rope_parameters": rope, "num_attention_heads": 3}
        text["num_key_value_heads"] = 1
        return self.config_class(
            text_config=text | self.experts,
            vision_config=vision,
            image_token_id=IMAGE,
            video_token_id=VIDEO,
            image_start_token_id=START,
            image_end_token_id=END,
            video_start_token_id=VOCAB - 6,
            video_end_token_id=VOCAB - 5,
        )

    @property
    def video_traits(self) -> Traits:  # type: ignore[override]
        chunks = "looks for the clip's features at video_token_id, which its prompts do not have"
        upstream = {**self.traits.upstream, "chunked_prefill": chunks}
        return replace(self.traits, gap_tokens=True, upstream=upstream)

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
    model_class = Glm4vMoeForConditionalGeneration
    config_class = Glm4vMoeConfig
    experts = {  # noqa: RUF012 - read only
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "first_k_dense_replace": 1,
    }


class Glm46V(Glm4v):
    """The same parts behind a class of its own."""

    name = "glm46v"
    model_class = Glm46VForConditionalGeneration

    def config(self) -> PreTrainedConfig:
        same = super().config().to_dict()
        shared = {name: same[name] for name in same if name.endswith("_token_id")}
        text, vision = same["text_config"], same["vision_config"]
        return Glm46VConfig(text_config=text, vision_config=vision, **shared)
