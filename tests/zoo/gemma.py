"""Gemma 3 and 4 and PaliGemma: visual tokens that see each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Gemma3TextConfig, GemmaConfig, PreTrainedConfig, PreTrainedModel

from .base import BOS, NEWLINE, VOCAB, Corner, Fault, Image, Row, Traits, flat, pixels
from .layouts import GridEntry, SquareEntry
from .parts import CLOSE, IMAGE, OPEN, SLIDING_THEN_FULL, language, siglip, tower
from .reasons import IMAGE_SPLIT


class Gemma3(SquareEntry):
    """8x8 patches, averaged to 4x4 tokens; three sliding layers and a full one."""

    name = "gemma3"
    traits = Traits(
        container="tensor",
        bidirectional=True,
        upstream=IMAGE_SPLIT,
        faults={
            "second_turn": Fault(
                "token types of a later turn are cut to its tokens, but read from the start",
                fixed=(5, 23),
            )
        },
    )
    architecture = "Gemma3ForConditionalGeneration"
    side, tokens = 32, 16
    wrap = ((NEWLINE, OPEN), (CLOSE, NEWLINE))
    embedding_std = 0.15

    def config(self) -> PreTrainedConfig:
        text = Gemma3TextConfig(
            **language(
                head_dim=16,
                query_pre_attn_scalar=16,
                sliding_window=24,
                layer_types=SLIDING_THEN_FULL,
                tie_word_embeddings=False,
            )
        )
        return self.made(
            text_config=text,
            vision_config=siglip(32),
            mm_tokens_per_image=16,
            boi_token_index=OPEN,
            eoi_token_index=CLOSE,
            image_token_index=IMAGE,
            tie_word_embeddings=False,
        )

    def token_inputs(self, model: PreTrainedModel, ids: Tensor, mask: Tensor) -> dict[str, Any]:
        return {"token_type_ids": (ids == self.image_token_id(model)).long()}


class Gemma4(GridEntry):
    """Ragged grids, averaged 2x2; per-layer embeddings; bidirectional on sliding layers only."""

    name = "gemma4"
    traits = Traits(
        container="tuple",
        ragged=True,
        bidirectional=True,
        upstream=IMAGE_SPLIT,
        faults={"static_cache": Fault("gives other tokens than a dynamic one", fixed=(5, 23))},
    )
    architecture = "Gemma4ForConditionalGeneration"
    feature_arguments = ("pixel_values", "image_position_ids")
    wrap = ((OPEN,), (CLOSE,))
    embedding_std = 0.15
    bidirectional_attention: str | None = "vision"
    shared_layers = 0
    layer_types: Sequence[str] = SLIDING_THEN_FULL
    max_patches = 144
    """The processor pads every image to this many patches."""

    def text(self) -> dict[str, Any]:
        """The settings of the language model that all of Gemma 4's kin have."""
        return language(
            head_dim=16,
            global_head_dim=16,
            sliding_window=40,
            layer_types=list(self.layer_types),
            use_bidirectional_attention=self.bidirectional_attention,
            tie_word_embeddings=False,
        )

    def config(self) -> PreTrainedConfig:
        text = self.text() | {
            "vocab_size_per_layer_input": VOCAB,
            "hidden_size_per_layer_input": 8,
            "num_kv_shared_layers": self.shared_layers,
        }
        vision = tower(
            num_key_value_heads=2, head_dim=16, pooling_kernel_size=2, position_embedding_size=32
        )
        return self.made(
            text_config=text,
            vision_config=vision,
            boi_token_id=OPEN,
            eoi_token_id=CLOSE,
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

    def token_inputs(self, model: PreTrainedModel, ids: Tensor, mask: Tensor) -> dict[str, Any]:
        return {"mm_token_type_ids": (ids == self.image_token_id(model)).long()}

    def patches(self, grids: Sequence[tuple[Image, object, int, int]]) -> tuple[Tensor, Tensor]:
        """Pixels and (x, y) of the patches of images or frames, padded."""
        values = torch.zeros(len(grids), self.max_patches, 3 * 4 * 4)
        positions = torch.full((len(grids), self.max_patches, 2), -1)
        for index, (image, part, height, width) in enumerate(grids):
            number = height * width
            values[index, :number] = pixels(image, number, 3 * 4 * 4, part=part).sigmoid()
            y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
            positions[index, :number] = torch.stack([x.flatten(), y.flatten()], dim=-1)
        return values, positions

    def visual_inputs(
        self, model: PreTrainedModel, rows: Sequence[Sequence[Image]]
    ) -> dict[str, Any]:
        grids = [(image, None, *self.grid(image)[1:]) for image in flat(rows)]
        values, positions = self.patches(grids)
        return {"pixel_values": values, "image_position_ids": positions}

    def paint(self, values: Tensor, inputs: Mapping[str, Any], corner: Corner, clips: bool) -> None:
        """A patch is where its position is; pixels are between 0 and 1."""
        frame, down, right = corner
        first = frame % int(inputs["num_frames_per_video"][0]) if clips else 0
        places = inputs["video_position_ids" if clips else "image_position_ids"][first]
        wide, high = (places.amax(dim=0) + 1).tolist()
        there = (places == torch.tensor([right % wide, down % high])).all(dim=-1)
        values[first, there] = 1.0 - values[first, there]


class Gemma4Shared(Gemma4):
    """As the small Gemma 4 models: causal everywhere, the last layers reuse earlier keys."""

    name = "gemma4_shared"
    traits = Traits(container="tuple", ragged=True, tolerance=2e-5, sealed="num_kv_shared_layers")
    bidirectional_attention = None
    shared_layers = 2
    layer_types = ("sliding_attention", "full_attention") * 2


class PaliGemma(SquareEntry):
    """Prefix LM: every prompt token sees every other. Images, then BOS, text and a newline."""

    name = "paligemma"
    traits = Traits(
        container="tensor",
        bidirectional=True,
        upstream=IMAGE_SPLIT
        | {"second_turn": "a prefix LM: one long prompt sees its end from its beginning"},
    )
    architecture = "PaliGemmaForConditionalGeneration"
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
        return self.made(
            vision_config=siglip(24),
            text_config=text,
            image_token_index=IMAGE,
            projection_dim=48,
            hidden_size=48,
            vocab_size=VOCAB,
            tie_word_embeddings=False,
        )

    def row_ids(self, model: PreTrainedModel, row: Row, seed: int = 0) -> list[int]:
        ids = super().row_ids(model, row, seed)
        images = [place for place, token in enumerate(ids) if token == IMAGE]
        end = images[-1] + 1 if images else 0
        return [*ids[:end], BOS, *ids[end:], NEWLINE]

    def token_inputs(self, model: PreTrainedModel, ids: Tensor, mask: Tensor) -> dict[str, Any]:
        """A prompt is all prefix; its labels are there all the same."""
        return {"token_type_ids": torch.zeros_like(ids), "labels": torch.full_like(ids, -100)}
