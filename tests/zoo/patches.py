"""Packed patches at one-dimensional positions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any

import torch
from torch import Tensor
from transformers import Exaone4Config, HyperCLOVAXConfig, PreTrainedConfig, PreTrainedModel

from .base import (
    NEWLINE,
    TEXT,
    VOCAB,
    Corner,
    Image,
    Kind,
    Traits,
    VideoEntry,
    flat,
    patch_at,
    pixels,
)
from .layouts import CLIPS, ClipEntry, Grid, GridEntry, PackedEntry, StampedEntry
from .parts import (
    DENSE_THEN_SPARSE,
    END,
    IMAGE,
    PLACEHOLDERS,
    ROPE,
    SPECIAL,
    START,
    VIDEO,
    WINDOWED,
    language,
    qwen2,
    routed,
    tower,
)
from .reasons import CLIPS_AS_IMAGES, INTERLEAVED


class Exaone45(ClipEntry):
    """Qwen2.5-VL's tower with shared keys; three sliding layers, then one without positions.

    `generate` drops the positions that it is given: the model counts columns.
    """

    name = "exaone4_5"
    traits = Traits(container="tuple", ragged=True)
    architecture = "Exaone4_5_ForConditionalGeneration"
    typed = False

    def config(self) -> PreTrainedConfig:
        return self.made(
            vision_config=WINDOWED | {"num_key_value_heads": 1},
            text_config=Exaone4Config(**language(sliding_window=24)),
            **PLACEHOLDERS,
        )


class HyperClovaXVision2(ClipEntry):
    """Qwen2.5-VL's tower as it is, a linear projector, a Llama with scaled logits."""

    name = "hyperclovax_vision_v2"
    traits = Traits(container="tuple", ragged=True)
    architecture = "HyperCLOVAXVisionV2ForConditionalGeneration"
    typed = False

    def config(self) -> PreTrainedConfig:
        return self.made(
            vision_config=WINDOWED | {"model_type": "qwen2_5_vl_vision"},
            text_config=HyperCLOVAXConfig(**language(logits_scaling=0.9)),
            tie_word_embeddings=False,
            **PLACEHOLDERS,
        )


class KimiK25(PackedEntry):
    """Raster-order patches, merged 2x2 by the projector; DeepSeek-V3 text (MLA, experts)."""

    name = "kimi_k25"
    traits = Traits(container="tuple", ragged=True, spared=("expansion",))
    architecture = "Kimi_K25ForConditionalGeneration"
    group = 1
    bos = True
    typed = False
    patch = (3, 4, 4)
    wrap = ((VOCAB - 2, 10, VOCAB - 3), (VOCAB - 4, NEWLINE))
    """`<|media_begin|>image<|media_content|>` and `<|media_end|>` with a newline."""

    def config(self) -> PreTrainedConfig:
        text = language(
            model_type="deepseek_v3",
            num_key_value_heads=4,
            **routed(),
            n_group=1,
            topk_group=1,
            first_k_dense_replace=1,
            kv_lora_rank=16,
            q_lora_rank=24,
            qk_rope_head_dim=8,
            qk_nope_head_dim=8,
            v_head_dim=12,
            num_mtp_layers=0,
        )
        return self.made(
            text_config=text,
            vision_config=tower(pos_emb_height=8, pos_emb_width=8),
            projection_hidden_size=32,
            image_token_id=IMAGE,
            video_token_id=VOCAB,
            vision_start_token_id=VOCAB - 2,
            vision_end_token_id=VOCAB - 4,
            tie_word_embeddings=False,
        )


AUDIO = VOCAB - 8


class Dots3Note(ClipEntry):
    """Latent attention that reads the best `index_topk` keys; a mixture in both models."""

    name = "dots3_note"
    traits = Traits(container="tuple", ragged=True)
    architecture = "Dots3NoteForConditionalGeneration"
    since = (5, 23)
    typed = False
    patch = (3 * 4 * 4,)

    def config(self) -> PreTrainedConfig:
        vision = tower(
            moe_intermediate_size=32,
            mlp_layer_types=["dense", "dense", "sparse"],
            num_local_experts=4,
            adapter_in_dim=32,
            adapter_out_dim=48,
        )
        latent = {
            "q_lora_rank": 24,
            "kv_lora_rank": 16,
            "qk_nope_head_dim": 8,
            "v_head_dim": 12,
            "head_dim": 16,
        }
        text = language(
            num_key_value_heads=4,
            **routed(),
            shared_experts_intermediate_size=32,
            qk_rope_head_dim=8,
            index_topk=48,
            index_head_dim=16,
            index_n_heads=4,
            sliding_window=24,
            swa_num_attention_heads=2,
            swa_num_key_value_heads=2,
            **latent,
            **{f"swa_{name}": value for name, value in latent.items()},
        )
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
        return self.made(
            vision_config=vision,
            text_config=text,
            audio_config=audio,
            audio_token_id=AUDIO,
            **PLACEHOLDERS,
        )


class Lfm3Vl(StampedEntry):
    """Qwen3-VL's patches and clips on 1-D positions; convolutions in the tower and in the text."""

    name = "lfm3_vl"
    architecture = "Lfm3VlForConditionalGeneration"
    since = (5, 23)
    typed = False
    traits = Traits(container="tuple", ragged=True, stateful=True)
    wrap = ((), ())
    bos = True

    def config(self) -> PreTrainedConfig:
        vision = tower(
            num_key_value_heads=1, layer_types=["conv", "full_attention", "full_attention"]
        )
        text = language(
            head_dim=16,
            sliding_window=40,
            layer_types=["conv", "sliding_attention", "full_attention", "conv"],
            tie_word_embeddings=False,
        )
        return self.made(
            vision_config=vision,
            text_config=text,
            projector_hidden_size=48,
            tie_word_embeddings=False,
            **SPECIAL,
        )


class MiniMaxM3VL(StampedEntry):
    """A 3-D rotary tower that sees a whole part of a clip at once, a mixture of four experts.

    A clip is cut into parts of at most `part` pairs of frames; each has a grid of its own.
    """

    name = "minimax_m3_vl"
    traits = Traits(container="tuple", ragged=True)
    architecture = "MiniMaxM3SparseForConditionalGeneration"
    clip_traits = StampedEntry.clip_traits | {"unit": "part"}
    typed = False
    part = 2
    sparse: tuple[bool, ...] = (False, False, False, False)
    """Layers that attend to the best blocks of keys alone."""

    def config(self) -> PreTrainedConfig:
        text = language(
            intermediate_size=32,
            dense_intermediate_size=64,
            shared_intermediate_size=32,
            head_dim=12,
            rotary_dim=8,
            rope_parameters=ROPE | {"partial_rotary_factor": 2 / 3},
            num_local_experts=4,
            num_experts_per_tok=2,
            mlp_layer_types=DENSE_THEN_SPARSE,
            layer_types=[
                "minimax_m3_sparse" if sparse else "full_attention" for sparse in self.sparse
            ],
            index_n_heads=2,
            index_head_dim=12,
            index_block_size=8,
            index_topk_blocks=3,
        )
        return self.made(
            vision_config=tower(image_size=64),
            text_config=text,
            image_token_index=IMAGE,
            video_token_index=VIDEO,
            projector_hidden_size=48,
        )

    def clip_grids(self, clip: Image) -> list[Grid]:
        frames, high, wide = CLIPS[clip.kind]
        starts = range(0, frames, self.part)
        return [(min(self.part, frames - start), high, wide) for start in starts]

    def clip_sizes(self, model: PreTrainedModel, clip: Image) -> list[int]:
        return [prod(grid) // 4 for grid in self.clip_grids(clip)]


class MiniMaxM3VLSparse(MiniMaxM3VL):
    """Three layers of four attend to the three best blocks of eight keys, as the checkpoint's do.

    They find a query's block by its position and a key's by its column, so the two must agree.
    """

    name = "minimax_m3_vl_sparse"
    sparse = (False, True, True, True)


WHOLE: dict[Kind, Grid] = {
    "small": (1, 2, 3),
    "square": (1, 6, 6),
    "wide": (1, 4, 8),
    "tall": (1, 8, 3),
}
"""Patches per image where every patch is a visual token."""


class VideoLlama3(ClipEntry):
    """Every patch of an image is a visual token; a clip's are halved, those that stay as they were
    in the frame before are left out (`video_compression_mask`)."""

    name = "video_llama_3"
    traits = Traits(container="tuple", ragged=True)
    architecture = "VideoLlama3ForConditionalGeneration"
    typed = False
    merge = 1
    wrap = ((), ())
    feature_arguments = ("pixel_values", "image_grid_thw", "image_merge_sizes")
    clip_arguments = ("pixel_values_videos", "video_grid_thw", "video_merge_sizes")
    patch = (3 * 4 * 4,)
    clip_traits: Mapping[str, Any] = {
        "gap_tokens": True,
        "thinned": True,
        "upstream": {
            "expansion": "counts a clip's placeholders, which are fewer than its features",
            "chunked_prefill": "the mask of what stays speaks of a whole clip",
        },
    }

    def config(self) -> PreTrainedConfig:
        return self.made(vision_config=tower(), text_config=qwen2(), **PLACEHOLDERS)

    def grid(self, image: Image) -> Grid:
        return WHOLE[image.kind]

    def visual_inputs(
        self, model: PreTrainedModel, rows: Sequence[Sequence[Image]]
    ) -> dict[str, Any]:
        merges = torch.ones(len(flat(rows)), dtype=torch.long)
        return super().visual_inputs(model, rows) | {"image_merge_sizes": merges}

    def paint(self, values: Tensor, inputs: Mapping[str, Any], corner: Corner, clips: bool) -> None:
        grid = inputs["video_grid_thw" if clips else "image_grid_thw"][0]
        values[patch_at(corner, grid, 2 if clips else 1)] += 3.0

    def stays(self, clip: Image) -> Tensor:
        """Which tokens of a clip are sent, bool `(frames, tokens of a frame)`: at least one."""
        frames, high, wide = CLIPS[clip.kind]
        moved = pixels(clip, frames, high * wide // 4, part="moved") > -0.5
        moved[0] = True
        moved[:, 0] = True
        return moved

    def clip_counts(self, model: PreTrainedModel, clip: Image) -> int:
        return int(self.stays(clip).sum())

    def clip_ids(self, model: PreTrainedModel, clip: Image) -> list[int]:
        """For each frame its time and a run; a comma between frames."""
        ids: list[int] = []
        for frame, moved in enumerate(self.stays(clip)):
            ids += [*([19] if frame else []), 20 + frame, *[VIDEO] * int(moved.sum())]
        return ids

    def clip_inputs(
        self, model: PreTrainedModel, rows: Sequence[Sequence[Image]]
    ) -> dict[str, Any]:
        clips = flat(rows)
        return super().clip_inputs(model, rows) | {
            "video_merge_sizes": torch.full((len(clips),), 2),
            "video_compression_mask": torch.cat([self.stays(clip).flatten() for clip in clips]),
        }


class NemotronHOmni(GridEntry, VideoEntry):
    """RADIO with three class tokens and a register before every image's patches; Mamba layers.

    Pairs of frames are the channels of one picture; images and clips share a placeholder, so a
    call takes the one or the other. Built without the audio tower.
    """

    name = "nemotron_h_omni"
    mixes = False
    traits = Traits(
        container="tuple",
        ragged=True,
        positions=False,
        stateful=True,
        tolerance=1e-4,
        upstream=dict.fromkeys(("assisted", "assistant_model"), "refused: it has a state")
        | INTERLEAVED,
    )
    architecture = "NemotronH_Omni_Reasoning_V3"
    wrap = ((START,), (END,))
    bos = False
    feature_arguments = ("pixel_values", "image_grid_hw")
    tubelets = 3
    clips_since = (5, 24)  # one clip a call before

    @property
    def video_traits(self) -> Traits:
        upstream = {**self.traits.upstream, **CLIPS_AS_IMAGES}
        del upstream["expansion"]  # as wrong as with images, but five tokens do not show it
        return replace(self.traits, ragged=False, gap_tokens=True, upstream=upstream)

    def redraw(self, model: PreTrainedModel, seed: int) -> None:
        """The head is the language model's, and not among the model's own functions."""
        super().redraw(model, seed)
        special = torch.ones(VOCAB, dtype=torch.bool)
        special[list(TEXT)] = False
        model.language_model.lm_head.weight[special] = 0.0

    def config(self) -> PreTrainedConfig:
        vision = {
            "hidden_size": 32,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "mlp_ratio": 1.5,
            "patch_size": 4,
            "image_size": 32,
            "max_img_size": 32,
            "num_cls_tokens": 3,
            "num_registers": 1,
            "video_temporal_patch_size": 2,
        }
        text = {
            "vocab_size": VOCAB,
            "hidden_size": 48,
            "layers_block_type": [
                "linear_attention",
                "moe",
                "full_attention",
                "mlp",
                "linear_attention",
                "full_attention",
            ],
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 12,
            "max_position_embeddings": 2048,
            "intermediate_size": 64,
            "ssm_state_size": 8,
            "mamba_num_heads": 4,
            "mamba_head_dim": 24,
            "n_groups": 2,
            "chunk_size": 16,
            "n_routed_experts": 4,
            "moe_intermediate_size": 32,
            "moe_shared_expert_intermediate_size": 32,
        }
        return self.made(
            vision_config=vision,
            text_config=text,
            projector_hidden_size=48,
            vision_hidden_size=32,
            image_token_id=IMAGE,
            video_token_id=VIDEO,
        )

    def visual_inputs(
        self, model: PreTrainedModel, rows: Sequence[Sequence[Image]]
    ) -> dict[str, Any]:
        images = flat(rows)
        values = [pixels(image, prod(self.grid(image)), 3 * 4 * 4) for image in images]
        grids = torch.tensor([self.grid(image)[1:] for image in images])
        return {"pixel_values": torch.cat(values), "image_grid_hw": grids}

    def paint(self, values: Tensor, inputs: Mapping[str, Any], corner: Corner, clips: bool) -> None:
        """Clips are pictures, images patches in raster order."""
        if clips:
            super().paint(values, inputs, corner, clips)
        else:
            values[patch_at(corner, (1, *inputs["image_grid_hw"][0]))] += 3.0

    def is_clip(self, model: PreTrainedModel, ids: Tensor) -> Tensor:
        return ids == self.image_token_id(model)

    def clip_counts(self, model: PreTrainedModel, clip: Image) -> int:
        return self.tubelets * 6

    def clip_ids(self, model: PreTrainedModel, clip: Image) -> list[int]:
        """For each pair of frames its label and a run; a line break between."""
        ids: list[int] = []
        for pair in range(self.tubelets):
            ids += [*([19] if pair else []), 20 + pair, START, *[IMAGE] * 6, END]
        return ids

    def clip_inputs(
        self, model: PreTrainedModel, rows: Sequence[Sequence[Image]]
    ) -> dict[str, Any]:
        clips = flat(rows)
        values = [pixels(clip, self.tubelets, 6, 16, 24, part="clip") for clip in clips]
        return {"pixel_values_videos": torch.stack(values)}


class MuseGlimmer(ClipEntry):
    """Windows of 4x4 patches in raster order, a pixel shuffle; normed embeddings and features.

    Three sliding layers with rotary positions, then one that sees all and has none.
    """

    name = "muse_glimmer"
    traits = Traits(container="tuple", ragged=True)
    architecture = "MuseGlimmerForConditionalGeneration"
    group = 1
    clip_traits: Mapping[str, Any] = {"gap_tokens": True}
    typed = False
    first, between, last = VOCAB - 7, VOCAB - 6, VOCAB - 5

    def vision(self) -> dict[str, Any]:
        return tower(
            pos_emb_height=4, pos_emb_width=4, num_hidden_layers=4, max_position_embeddings=16
        )

    def text(self) -> dict[str, Any]:
        return language(head_dim=12, sliding_window=24, output_multiplier=1.0, qk_scale_factor=2.0)

    def config(self) -> PreTrainedConfig:
        return self.made(
            vision_config=self.vision(),
            text_config=self.text(),
            out_hidden_size=128,
            projector_hidden_size=48,
            **PLACEHOLDERS,
        )

    def clip_ids(self, model: PreTrainedModel, clip: Image) -> list[int]:
        """A start, for each pair of frames its time and a run, separators between, an end."""
        frames, high, wide = CLIPS[clip.kind]
        ids = [self.first]
        for frame in range(frames):
            ids += [20 + frame, *[VIDEO] * (high * wide // 4)]
            ids.append(self.between if frame < frames - 1 else self.last)
        return ids


class MuseSpark(MuseGlimmer):
    """Muse Glimmer with a mixture of experts and gated residuals."""

    name = "muse_spark"
    architecture = "MuseSparkForConditionalGeneration"
    since = (5, 23)

    def config(self) -> PreTrainedConfig:
        text = self.text() | {
            "moe_intermediate_size": 32,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "moe_hidden_size": 32,
            "mlp_layer_types": DENSE_THEN_SPARSE,
        }
        audio: dict[str, Any] = {
            "patch_sizes": [4],
            "hidden_sizes": [16],
            "depths": [1],
            "num_hidden_layers": 1,
            "out_hidden_size": 48,
        }
        return self.made(
            vision_config=self.vision(),
            text_config=text,
            audio_config=audio,
            audio_token_id=AUDIO,
            out_hidden_size=128,
            projector_hidden_size=48,
            **PLACEHOLDERS,
        )
