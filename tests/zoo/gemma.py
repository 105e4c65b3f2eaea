"""Google's models: SigLIP or an own tower, visual tokens that see each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    Gemma4Config,
    Gemma4ForConditionalGeneration,
    GemmaConfig,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    PreTrainedConfig,
    PreTrainedModel,
)

from .base import BOS, NEWLINE, VOCAB, Fault, Image, Row, Traits, ZooEntry, flat, pixels
from .llava import siglip
from .qwen import GRIDS

BEGIN, END, IMAGE = range(VOCAB - 3, VOCAB)


CHUNKS = {"chunked_prefill": "an image that two chunks share is not seen whole"}


class Gemma3(ZooEntry):
    """8x8 patches, averaged to 4x4 tokens; three sliding layers and a full one."""

    name = "gemma3"
    traits = Traits(
        container="tensor",
        bidirectional=True,
        upstream=CHUNKS,
        faults={
            "second_turn": Fault(
                "token types of a later turn are cut to its tokens, but read from the start",
                fixed=(5, 23),
            )
        },
    )
    model_class = Gemma3ForConditionalGeneration
    wrap = ((NEWLINE, BEGIN), (END, NEWLINE))
    embedding_std = 0.15

    def config(self) -> PreTrainedConfig:
        text = Gemma3TextConfig(
            vocab_size=VOCAB,
            hidden_size=48,
            intermediate_size=64,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=16,
            query_pre_attn_scalar=16,
            sliding_window=24,
            layer_types=["sliding_attention"] * 3 + ["full_attention"],
            max_position_embeddings=2048,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            tie_word_embeddings=False,
        )
        return Gemma3Config(
            text_config=text,
            vision_config=siglip(32),
            mm_tokens_per_image=16,
            boi_token_index=BEGIN,
            eoi_token_index=END,
            image_token_index=IMAGE,
            tie_word_embeddings=False,
        )

    def counts(self, model: PreTrainedModel, image: Image, alone: bool = True) -> int:
        return 16

    def token_inputs(self, model: PreTrainedModel, ids: Tensor, mask: Tensor) -> dict[str, Any]:
        return {"token_type_ids": (ids == self.image_token_id(model)).long()}

    def visual_inputs(
        self, model: PreTrainedModel, rows: Sequence[Sequence[Image]]
    ) -> dict[str, Any]:
        return {"pixel_values": torch.stack([pixels(image, 3, 32, 32) for image in flat(rows)])}


class Gemma4(ZooEntry):
    """Ragged grids, averaged 2x2; per-layer embeddings; bidirectional on sliding layers only."""

    name = "gemma4"
    traits = Traits(
        container="tuple",
        ragged=True,
        bidirectional=True,
        upstream=CHUNKS,
        faults={"static_cache": Fault("gives other tokens than a dynamic one", fixed=(5, 23))},
    )
    model_class = Gemma4ForConditionalGeneration
    feature_arguments = ("pixel_values", "image_position_ids")
    wrap = ((BEGIN,), (END,))
    embedding_std = 0.15
    bidirectional_attention: str | None = "vision"
    shared_layers = 0
    layer_types: tuple[str, ...] = (*["sliding_attention"] * 3, "full_attention")
    max_patches = 144
    """The processor pads every image to this many patches."""

    def config(self) -> PreTrainedConfig:
        text = {
            "vocab_size": VOCAB,
            "vocab_size_per_layer_input": VOCAB,
            "hidden_size_per_layer_input": 8,
            "hidden_size": 48,
            "intermediate_size": 64,
            "num_hidden_layers": len(self.layer_types),
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "global_head_dim": 16,
            "num_kv_shared_layers": self.shared_layers,
            "sliding_window": 40,
            "layer_types": list(self.layer_types),
            "use_bidirectional_attention": self.bidirectional_attention,
            "max_position_embeddings": 2048,
            "tie_word_embeddings": False,
        }
        vision = {
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "patch_size": 4,
            "pooling_kernel_size": 2,
            "position_embedding_size": 32,
        }
        return Gemma4Config(
            text_config=text,
            vision_config=vision,
            boi_token_id=BEGIN,
            eoi_token_id=END,
            image_token_id=IMAGE,
            video_token_id=VOCAB - 4,
            audio_token_id=VOCAB - 5,
            tie_word_embeddings=False,
        )

    def redraw(self, model: PreTrainedModel, seed: int) -> None:
        """Attention does not scale its logits: the query norm does, as training would have it."""
        super().redraw(model, seed)
        for name, parameter in model.named_parameters():
            if name.endswith("q_norm.weight"):
                parameter.mul_(0.25)

    def counts(self, model: PreTrainedModel, image: Image, alone: bool = True) -> int:
        _, height, width = GRIDS[image.kind]
        return height * width // 4

    def token_inputs(self, model: PreTrainedModel, ids: Tensor, mask: Tensor) -> dict[str, Any]:
        return {"mm_token_type_ids": (ids == self.image_token_id(model)).long()}

    def visual_inputs(
        self, model: PreTrainedModel, rows: Sequence[Sequence[Image]]
    ) -> dict[str, Any]:
        images = flat(rows)
        values = torch.zeros(len(images), self.max_patches, 3 * 4 * 4)
        positions = torch.full((len(images), self.max_patches, 2), -1)
        for index, image in enumerate(images):
            _, height, width = GRIDS[image.kind]
            patches = height * width
            values[index, :patches] = pixels(image, patches, 3 * 4 * 4).sigmoid()
            y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
            positions[index, :patches] = torch.stack([x.flatten(), y.flatten()], dim=-1)
        return {"pixel_values": values, "image_position_ids": positions}


class Gemma4Shared(Gemma4):
    """As the small Gemma 4 models: causal everywhere, the last layers reuse earlier keys."""

    name = "gemma4_shared"
    traits = Traits(container="tuple", ragged=True, tolerance=2e-5, sealed="num_kv_shared_layers")
    bidirectional_attention = None
    shared_layers = 2
    layer_types = ("sliding_attention", "full_attention") * 2


class PaliGemma(ZooEntry):
    """Prefix LM: every prompt token sees every other. Images, then BOS, text and a newline."""

    name = "paligemma"
    traits = Traits(
        container="tensor",
        bidirectional=True,
        upstream=CHUNKS
        | {"second_turn": "a prefix LM: one long prompt sees its end from its beginning"},
    )
    model_class = PaliGemmaForConditionalGeneration
    bos = False
    embedding_std = 0.15

    def config(self) -> PreTrainedConfig:
        text = GemmaConfig(
            vocab_size=VOCAB,
            hidden_size=48,
            intermediate_size=64,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=1,
            head_dim=16,
            max_position_embeddings=2048,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            tie_word_embeddings=False,
        )
        return PaliGemmaConfig(
            vision_config=siglip(24),
            text_config=text,
            image_token_index=IMAGE,
            projection_dim=48,
            hidden_size=48,
            vocab_size=VOCAB,
            tie_word_embeddings=False,
        )

    def counts(self, model: PreTrainedModel, image: Image, alone: bool = True) -> int:
        return 36

    def row_ids(self, model: PreTrainedModel, row: Row, seed: int = 0) -> list[int]:
        ids = super().row_ids(model, row, seed)
        images = [place for place, token in enumerate(ids) if token == IMAGE]
        end = images[-1] + 1 if images else 0
        return [*ids[:end], BOS, *ids[end:], NEWLINE]

    def token_inputs(self, model: PreTrainedModel, ids: Tensor, mask: Tensor) -> dict[str, Any]:
        """A prompt is all prefix; its labels are there all the same."""
        return {"token_type_ids": torch.zeros_like(ids), "labels": torch.full_like(ids, -100)}

    def visual_inputs(
        self, model: PreTrainedModel, rows: Sequence[Sequence[Image]]
    ) -> dict[str, Any]:
        return {"pixel_values": torch.stack([pixels(image, 3, 24, 24) for image in flat(rows)])}
