"""Models that cut an image into tiles and shuffle pixels into channels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import (
    AyaVisionConfig,
    AyaVisionForConditionalGeneration,
    Cohere2Config,
    Cohere2VisionConfig,
    Cohere2VisionForConditionalGeneration,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLVisionConfig,
    Llama4Config,
    Llama4ForConditionalGeneration,
    PreTrainedConfig,
    PreTrainedModel,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
)

from .base import NEWLINE, RELEASE, VOCAB, Fault, Image, Kind, Traits, ZooEntry, flat, pixels
from .llava import llama, qwen2, siglip

START, END, IMAGE = range(VOCAB - 3, VOCAB)

TILES: dict[Kind, tuple[int, int]] = {
    "small": (1, 1),
    "square": (2, 2),
    "wide": (1, 2),
    "tall": (3, 1),
}
"""Rows and columns of tiles; where there is more than one, a thumbnail follows."""


def tiles(image: Image) -> int:
    rows, columns = TILES[image.kind]
    return rows * columns + (rows * columns > 1)


def tile_pixels(images: Sequence[Image]) -> torch.Tensor:
    return torch.cat([pixels(image, tiles(image), 3, 32, 32) for image in images])


class InternVL(ZooEntry):
    """Tiles of 8x8 patches, shuffled to 4x4 tokens, thumbnail last, one run of placeholders."""

    name = "internvl"
    traits = Traits(container="tensor", unit="tile", has_cls=True, ragged=True, tiles=True)
    model_class = InternVLForConditionalGeneration
    wrap = ((START,), (END,))

    def config(self) -> PreTrainedConfig:
        vision = InternVLVisionConfig(
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=3,
            num_attention_heads=2,
            image_size=32,
            patch_size=4,
        )
        return InternVLConfig(
            vision_config=vision,
            text_config=qwen2(),
            image_token_id=IMAGE,
            image_seq_length=16,
            tie_word_embeddings=False,
        )

    def counts(self, model: PreTrainedModel, image: Image, alone: bool = True) -> int:
        return 16 * tiles(image)

    def visual_inputs(
        self, model: PreTrainedModel, rows: Sequence[Sequence[Image]]
    ) -> dict[str, Any]:
        return {"pixel_values": tile_pixels(flat(rows))}


class Idefics3(ZooEntry):
    """Tiles as InternVL's; each tile's run of placeholders follows its own row/column token.

    Tiles of all images of a row share one axis, which is padded to the batch with tiles of zeros.
    """

    name = "idefics3"
    traits = Traits(
        container="list" if RELEASE >= (5, 20) else "tensor",
        unit="row" if RELEASE >= (5, 20) else "tile",
        ragged=True,
        tiles=True,
        gap_tokens=True,
    )
    model_class = Idefics3ForConditionalGeneration
    config_class: type[PreTrainedConfig] = Idefics3Config
    feature_arguments = ("pixel_values", "pixel_attention_mask")
    fake, global_tag = VOCAB - 2, VOCAB - 3
    places = VOCAB - 20
    """`<row_1_col_1>`; four columns per row."""

    def config(self) -> PreTrainedConfig:
        vision = {
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "image_size": 32,
            "patch_size": 4,
        }
        return self.config_class(
            vision_config=vision, text_config=llama(), image_token_id=IMAGE, scale_factor=2
        )

    def counts(self, model: PreTrainedModel, image: Image, alone: bool = True) -> int:
        return 16 * tiles(image)

    def image_ids(self, model: PreTrainedModel, image: Image, alone: bool = True) -> list[int]:
        run = [self.image_token_id(model)] * 16
        rows, columns = TILES[image.kind]
        ids: list[int] = []
        if rows * columns > 1:
            for row in range(rows):
                for column in range(columns):
                    ids += [self.fake, self.places + 4 * row + column, *run]
                ids.append(NEWLINE)
            ids.append(NEWLINE)
        return [*ids, self.fake, self.global_tag, *run, self.fake]

    def visual_inputs(
        self, model: PreTrainedModel, rows: Sequence[Sequence[Image]]
    ) -> dict[str, Any]:
        numbers = [sum(map(tiles, row)) for row in rows]
        values = torch.zeros(len(rows), max(numbers), 3, 32, 32)
        mask = torch.zeros(len(rows), max(numbers), 32, 32, dtype=torch.long)
        for index, (row, number) in enumerate(zip(rows, numbers, strict=True)):
            if row:
                values[index, :number] = tile_pixels(row)
                mask[index, :number] = 1
        return {"pixel_values": values, "pixel_attention_mask": mask}


class SmolVLM(Idefics3):
    name = "smolvlm"
    model_class = SmolVLMForConditionalGeneration
    config_class = SmolVLMConfig


def cohere2() -> Cohere2Config:
    """Three sliding layers with RoPE and a full layer without."""
    return Cohere2Config(
        vocab_size=VOCAB,
        hidden_size=48,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=40,
        layer_types=["sliding_attention"] * 3 + ["full_attention"],
        max_position_embeddings=2048,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        tie_word_embeddings=False,
    )


class AyaVision(InternVL):
    """Tiles as InternVL's; a tag stands before the placeholders of each, the thumbnail last."""

    name = "aya_vision"
    traits = Traits(container="tensor", unit="tile", ragged=True, tiles=True, gap_tokens=True)
    model_class = AyaVisionForConditionalGeneration
    tags = VOCAB - 20
    global_tag = VOCAB - 4

    def config(self) -> PreTrainedConfig:
        return AyaVisionConfig(
            vision_config=siglip(32),
            text_config=cohere2(),
            image_token_index=IMAGE,
            alignment_intermediate_size=64,
            tie_word_embeddings=False,
        )

    def image_ids(self, model: PreTrainedModel, image: Image, alone: bool = True) -> list[int]:
        run = [self.image_token_id(model)] * 16
        tags = [self.tags + tile for tile in range(tiles(image) - 1)] + [self.global_tag]
        return [START, *(token for tag in tags for token in (tag, *run)), END]


class Cohere2Vision(InternVL):
    """Tiles as InternVL's; a line break follows the placeholders of each."""

    name = "cohere2_vision"
    traits = Traits(container="tensor", unit="tile", ragged=True, tiles=True, gap_tokens=True)
    model_class = Cohere2VisionForConditionalGeneration
    line_break = VOCAB - 4

    def config(self) -> PreTrainedConfig:
        return Cohere2VisionConfig(
            vision_config=siglip(32),
            text_config=cohere2(),
            image_token_id=IMAGE,
            alignment_intermediate_size=64,
            tie_word_embeddings=False,
        )

    def image_ids(self, model: PreTrainedModel, image: Image, alone: bool = True) -> list[int]:
        tile = [self.image_token_id(model)] * 16 + [self.line_break]
        return [START, *tile * tiles(image), END]


class Llama4(InternVL):
    """Separators between and after the tiles of a row; three chunked layers, one full NoPE layer.

    The class token stands last; `get_image_features` returns the tokens before the projector.
    """

    name = "llama4"
    traits = Traits(
        container="last_hidden_state",
        unit="tile",
        has_cls=True,
        ragged=True,
        tiles=True,
        gap_tokens=True,
        upstream={
            "expansion": "the features live in last_hidden_state, which is not expanded",
            "chunked_prefill": "no pooler_output to cut into chunks",
        },
        faults={
            "static_cache": Fault("its masks are asked for with an unknown argument", fixed=(5, 20))
        },
    )
    model_class = Llama4ForConditionalGeneration
    across, down, global_tag = VOCAB - 4, VOCAB - 5, VOCAB - 6

    def config(self) -> PreTrainedConfig:
        vision = {
            "hidden_size": 32,
            "intermediate_size": 128,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "image_size": 32,
            "patch_size": 4,
            "projector_input_dim": 40,
            "projector_output_dim": 40,
            "vision_output_dim": 40,
        }
        text = {
            "vocab_size": VOCAB,
            "hidden_size": 48,
            "intermediate_size": 64,
            "intermediate_size_mlp": 64,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "num_local_experts": 2,
            "interleave_moe_layer_step": 2,
            "attention_chunk_size": 32,
            "max_position_embeddings": 2048,
            "pad_token_id": 0,
        }
        return Llama4Config(
            vision_config=vision,
            text_config=text,
            boi_token_index=START,
            eoi_token_index=END,
            image_token_index=IMAGE,
        )

    def image_ids(self, model: PreTrainedModel, image: Image, alone: bool = True) -> list[int]:
        run = [self.image_token_id(model)] * 16
        rows, columns = TILES[image.kind]
        ids = [START]
        if rows * columns > 1:
            for _ in range(rows):
                for column in range(columns):
                    ids += [*run, self.across] if column < columns - 1 else run
                ids.append(self.down)
        return [*ids, self.global_tag, *run, END]
