"""Models that take the patches of all images in one sequence, at one-dimensional positions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any

import torch
import transformers
from packaging.version import parse
from torch import Tensor
from transformers import (
    Exaone4_5_Config,
    Exaone4_5_ForConditionalGeneration,
    Exaone4Config,
    HyperCLOVAXConfig,
    HyperCLOVAXVisionV2Config,
    HyperCLOVAXVisionV2ForConditionalGeneration,
    MiniMaxM3SparseForConditionalGeneration,
    MiniMaxM3VLConfig,
    MuseGlimmerConfig,
    MuseGlimmerForConditionalGeneration,
    NemotronH_Omni_Reasoning_V3,
    NemotronH_Omni_Reasoning_V3_Config,
    PreTrainedConfig,
    PreTrainedModel,
    VideoLlama3Config,
    VideoLlama3ForConditionalGeneration,
)

from .base import TEXT, VOCAB, Corner, Image, Kind, Traits, VideoEntry, flat, patch_at, pixels
from .llava import qwen2
from .qwen import CLIPS, END, GRIDS, IMAGE, START, TEXT_CONFIG, VIDEO, ClipEntry, StampedEntry

PLACEHOLDERS: dict[str, Any] = {"image_token_id": IMAGE, "video_token_id": VIDEO}
WINDOWED: dict[str, Any] = {
    "depth": 3,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_heads": 2,
    "patch_size": 4,
    "window_size": 16,
    "out_hidden_size": 48,
    "fullatt_block_indexes": [2],
}
"""Qwen2.5-VL's tower: windows of 2x2 visual tokens, the last of three blocks attends to all."""


class Untyped(ClipEntry):
    """The processor returns no token types."""

    def token_inputs(self, model: PreTrainedModel, ids: Tensor, mask: Tensor) -> dict[str, Any]:
        return {}


class Exaone45(Untyped):
    """Qwen2.5-VL's tower with shared keys; three sliding layers, then one without positions.

    `generate` drops the positions that it is given: the model counts columns.
    """

    name = "exaone4_5"
    traits = Traits(container="tuple", ragged=True)
    model_class = Exaone4_5_ForConditionalGeneration

    def config(self) -> PreTrainedConfig:
        return Exaone4_5_Config(
            vision_config=WINDOWED | {"num_key_value_heads": 1},
            text_config=Exaone4Config(**TEXT_CONFIG, sliding_window=24),
            **PLACEHOLDERS,
        )


class HyperClovaXVision2(Untyped):
    """Qwen2.5-VL's tower as it is, a linear projector, a Llama with scaled logits."""

    name = "hyperclovax_vision_v2"
    traits = Traits(container="tuple", ragged=True)
    model_class = HyperCLOVAXVisionV2ForConditionalGeneration

    def config(self) -> PreTrainedConfig:
        return HyperCLOVAXVisionV2Config(
            vision_config=WINDOWED | {"model_type": "qwen2_5_vl_vision"},
            text_config=HyperCLOVAXConfig(**TEXT_CONFIG, logits_scaling=0.9),
            tie_word_embeddings=False,
            **PLACEHOLDERS,
        )


class MiniMaxM3VL(StampedEntry):
    """A 3-D rotary tower that sees a whole part of a clip at once, a mixture of four experts.

    A clip is cut into parts of at most `part` pairs of frames; each has a grid of its own.
    """

    name = "minimax_m3_vl"
    traits = Traits(container="tuple", ragged=True)
    model_class = MiniMaxM3SparseForConditionalGeneration
    part = 2
    sparse: tuple[bool, ...] = (False, False, False, False)
    """Layers that attend to the best blocks of keys alone."""

    @property
    def video_traits(self) -> Traits:  # type: ignore[override]
        return replace(self.traits, unit="part", gap_tokens=True)

    def config(self) -> PreTrainedConfig:
        text = TEXT_CONFIG | {
            "intermediate_size": 32,
            "dense_intermediate_size": 64,
            "shared_intermediate_size": 32,
            "head_dim": 12,
            "rotary_dim": 8,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e4,
                "partial_rotary_factor": 2 / 3,
            },
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "mlp_layer_types": ["dense", "sparse", "sparse", "sparse"],
            "layer_types": [
                "minimax_m3_sparse" if sparse else "full_attention" for sparse in self.sparse
            ],
            "index_n_heads": 2,
            "index_head_dim": 12,
            "index_block_size": 8,
            "index_topk_blocks": 3,
        }
        vision = {
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "image_size": 64,
            "patch_size": 4,
        }
        return MiniMaxM3VLConfig(
            vision_config=vision,
            text_config=text,
            image_token_index=IMAGE,
            video_token_index=VIDEO,
            projector_hidden_size=48,
        )

    def token_inputs(self, model: PreTrainedModel, ids: Tensor, mask: Tensor) -> dict[str, Any]:
        return {}

    def grids(self, clip: Image) -> list[tuple[int, int, int]]:
        """The grids of a clip's parts."""
        frames, high, wide = CLIPS[clip.kind]
        starts = range(0, frames, self.part)
        return [(min(self.part, frames - start), high, wide) for start in starts]

    def clip_sizes(self, model: PreTrainedModel, clip: Image) -> list[int]:
        return [prod(grid) // 4 for grid in self.grids(clip)]

    def clip_inputs(
        self, model: PreTrainedModel, rows: Sequence[Sequence[Image]]
    ) -> dict[str, Any]:
        parts = [grid for clip in flat(rows) for grid in self.grids(clip)]
        return super().clip_inputs(model, rows) | {"video_grid_thw": torch.tensor(parts)}


class MiniMaxM3VLSparse(MiniMaxM3VL):
    """Three layers of four attend to the three best blocks of eight keys, as the checkpoint's do.

    They find a query's block by its position and a key's by its column, so the two must agree.
    """

    name = "minimax_m3_vl_sparse"
    sparse = (False, True, True, True)


class MuseGlimmer(Untyped):
    """Windows of 4x4 patches in raster order, a pixel shuffle; normed embeddings and features.

    Three sliding layers with rotary positions, then one that sees all and has none.
    """

    name = "muse_glimmer"
    traits = Traits(container="tuple", ragged=True)
    model_class = MuseGlimmerForConditionalGeneration
    group = 1
    first, between, last = VOCAB - 7, VOCAB - 6, VOCAB - 5

    @property
    def video_traits(self) -> Traits:  # type: ignore[override]
        return replace(self.traits, gap_tokens=True)

    def vision(self) -> dict[str, Any]:
        return {
            "patch_size": 4,
            "pos_emb_height": 4,
            "pos_emb_width": 4,
            "num_attention_heads": 2,
            "num_hidden_layers": 4,
            "hidden_size": 32,
            "intermediate_size": 48,
            "max_position_embeddings": 16,
        }

    def text(self) -> dict[str, Any]:
        return TEXT_CONFIG | {
            "head_dim": 12,
            "sliding_window": 24,
            "output_multiplier": 1.0,
            "qk_scale_factor": 2.0,
        }

    def config(self) -> PreTrainedConfig:
        return MuseGlimmerConfig(
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


WHOLE: dict[Kind, tuple[int, int, int]] = {
    "small": (1, 2, 3),
    "square": (1, 6, 6),
    "wide": (1, 4, 8),
    "tall": (1, 8, 3),
}
"""Patches per image where every patch is a visual token."""


class VideoLlama3(Untyped):
    """Every patch of an image is a visual token; a clip's are halved, those that stay as they were
    in the frame before are left out (`video_compression_mask`)."""

    name = "video_llama_3"
    traits = Traits(container="tuple", ragged=True)
    model_class = VideoLlama3ForConditionalGeneration
    wrap = ((), ())
    feature_arguments = ("pixel_values", "image_grid_thw", "image_merge_sizes")
    clip_arguments = ("pixel_values_videos", "video_grid_thw", "video_merge_sizes")
    patch_values = 3 * 4 * 4

    @property
    def video_traits(self) -> Traits:  # type: ignore[override]
        upstream = {
            "expansion": "counts a clip's placeholders, which are fewer than its features",
            "chunked_prefill": "the mask of what stays speaks of a whole clip",
        }
        return replace(self.traits, gap_tokens=True, thinned=True, upstream=upstream)

    def config(self) -> PreTrainedConfig:
        vision = {
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "patch_size": 4,
        }
        return VideoLlama3Config(vision_config=vision, text_config=qwen2(), **PLACEHOLDERS)

    def counts(self, model: PreTrainedModel, image: Image, alone: bool = True) -> int:
        return int(torch.tensor(WHOLE[image.kind]).prod())

    def visual_inputs(
        self, model: PreTrainedModel, rows: Sequence[Sequence[Image]]
    ) -> dict[str, Any]:
        images = flat(rows)
        values = [pixels(image, self.counts(model, image), self.patch_values) for image in images]
        return {
            "pixel_values": torch.cat(values),
            "image_grid_thw": torch.tensor([WHOLE[image.kind] for image in images]),
            "image_merge_sizes": torch.ones(len(images), dtype=torch.long),
        }

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


class NemotronHOmni(VideoEntry):
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
        | {"expansion": "interleaves the images of a row: A A B B, not A B A B"},
    )
    model_class = NemotronH_Omni_Reasoning_V3
    wrap = ((START,), (END,))
    bos = False
    feature_arguments = ("pixel_values", "image_grid_hw")
    tubelets = 3
    takes_clips = parse(transformers.__version__) >= parse("5.24")  # one clip a call before

    @property
    def video_traits(self) -> Traits:  # type: ignore[override]
        chunks = "looks for the clip's features at video_token_id, which its prompts do not have"
        upstream = {**self.traits.upstream, "chunked_prefill": chunks}
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
        return NemotronH_Omni_Reasoning_V3_Config(
            vision_config=vision,
            text_config=text,
            projector_hidden_size=48,
            vision_hidden_size=32,
            image_token_id=IMAGE,
            video_token_id=VIDEO,
        )

    def counts(self, model: PreTrainedModel, image: Image, alone: bool = True) -> int:
        return int(torch.tensor(GRIDS[image.kind]).prod()) // 4

    def visual_inputs(
        self, model: PreTrainedModel, rows: Sequence[Sequence[Image]]
    ) -> dict[str, Any]:
        images = flat(rows)
        values = [pixels(image, 4 * self.counts(model, image), 3 * 4 * 4) for image in images]
        grids = torch.tensor([GRIDS[image.kind][1:] for image in images])
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
