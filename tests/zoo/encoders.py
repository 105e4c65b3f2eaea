"""Models that put a Q-Former or cross-attention between the image and the language model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any

import torch
from torch import Tensor
from transformers import OPTConfig, PreTrainedConfig, PreTrainedModel
from transformers.models.mllama.processing_mllama import (
    convert_sparse_cross_attention_mask_to_dense,
    get_cross_attention_token_mask,
)

from .base import TEXT, VOCAB, Image, Row, Side, Traits, ZooEntry, flat, images_of, pixels
from .layouts import TILES, SquareEntry
from .parts import IMAGE, language, llama, tower

VISION: dict[str, Any] = tower(image_size=24)


QFORMER: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
    "cross_attention_frequency": 2,
}


OWN_GENERATE = {
    "encoder_outputs": "generate requires pixel_values and encodes them itself",
    "chunked_prefill": "generate runs the language model on inputs_embeds",
    "second_turn": "generate requires pixel_values, for every placeholder of the ids",
    "assistant_model": "generate of the assistant requires pixel_values and is given none",
}


PREFIX = (
    "a token before the first image attends evenly to all vision slots of the batch, padding too"
)


ONE_IMAGE = "the processor puts exactly one image before the text, also before its padding"


class Blip2(SquareEntry):
    """EVA-CLIP (36 patches and a class token), eight queries, OPT.

    A row holds exactly one image; its eight placeholders stand before BOS and before padding.
    """

    name = "blip_2"
    traits = Traits(
        container="tensor", has_cls=True, encoder_side=True, one_image=True, upstream=OWN_GENERATE
    )
    architecture = "Blip2ForConditionalGeneration"
    tokens = 8

    def config(self) -> PreTrainedConfig:
        text = OPTConfig(
            vocab_size=VOCAB,
            hidden_size=48,
            word_embed_proj_dim=48,
            ffn_dim=64,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=512,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            tie_word_embeddings=False,
        )
        return self.made(
            vision_config=VISION,
            qformer_config=QFORMER,
            text_config=text,
            num_query_tokens=8,
            image_token_index=IMAGE,
            tie_word_embeddings=False,
        )

    def rows(self, rows: Sequence[Row]) -> list[Row]:
        """Every row with its first image (or a small one) in front, and all of its text."""
        fitted: list[Row] = []
        for row in rows:
            images = images_of(row)
            text = sum(segment for segment in row if isinstance(segment, int))
            fitted.append([images[0] if images else Image("small"), text])
        return fitted

    def inputs(
        self, model: PreTrainedModel, rows: Sequence[Row], side: Side = "left", seed: int = 0
    ) -> dict[str, Any]:
        for row in rows:
            if not row or images_of(row) != [row[0]]:
                raise ValueError(f"{self.name}: {ONE_IMAGE}, got {row}; see ZooEntry.rows")
        images = [images_of(row)[0] for row in rows]
        batch = super().inputs(model, [row[1:] for row in rows], side, seed)
        prefix = torch.full((len(rows), self.counts(model, images[0])), IMAGE)
        batch["input_ids"] = torch.cat([prefix, batch["input_ids"]], dim=1)
        batch["attention_mask"] = torch.cat([torch.ones_like(prefix), batch["attention_mask"]], 1)
        return batch | self.visual_inputs(model, [[image] for image in images])


class InstructBlip(Blip2):
    """The same with Llama; the Q-Former reads the question, with ids of its own tokenizer."""

    name = "instructblip"
    traits = replace(
        Blip2.traits,
        upstream=OWN_GENERATE
        | {"batch_forward": "positions count the padding between image and text"},
    )
    architecture = "InstructBlipForConditionalGeneration"
    feature_arguments = ("pixel_values", "qformer_input_ids", "qformer_attention_mask")

    def config(self) -> PreTrainedConfig:
        return self.made(
            vision_config=VISION,
            qformer_config=QFORMER,
            text_config=llama(),
            num_query_tokens=8,
            image_token_index=IMAGE,
            tie_word_embeddings=False,
        )

    def token_inputs(self, model: PreTrainedModel, ids: Tensor, mask: Tensor) -> dict[str, Any]:
        """Another vocabulary (here: the ids reversed), padded on the right."""
        questions = [row[keep.bool()] for row, keep in zip(ids, mask, strict=True)]
        length = max(map(len, questions))
        qformer_ids = torch.zeros(len(ids), length, dtype=torch.long)
        qformer_mask = torch.zeros_like(qformer_ids)
        for index, question in enumerate(questions):
            qformer_ids[index, : len(question)] = TEXT.stop - question
            qformer_mask[index, : len(question)] = 1
        return {"qformer_input_ids": qformer_ids, "qformer_attention_mask": qformer_mask}


class InstructBlipVideo(InstructBlip):
    """The same for a clip of four frames in front: four queries look at each frame."""

    name = "instructblipvideo"
    architecture = "InstructBlipVideoForConditionalGeneration"
    medium = "video"
    tokens = 4 * 4

    def config(self) -> PreTrainedConfig:
        return self.made(
            vision_config=VISION,
            qformer_config=QFORMER,
            text_config=llama(),
            num_query_tokens=4,
            video_token_index=IMAGE,
            tie_word_embeddings=False,
        )

    def image_token_id(self, model: PreTrainedModel) -> int:
        return IMAGE

    def visual_inputs(
        self, model: PreTrainedModel, rows: Sequence[Sequence[Image]]
    ) -> dict[str, Any]:
        return {"pixel_values": torch.stack([pixels(image, 4, 3, 24, 24) for image in flat(rows)])}

    def features(self, model: PreTrainedModel, inputs: Mapping[str, Any]) -> Any:
        arguments = {key: inputs[key] for key in self.feature_arguments}
        return model.get_video_features(**arguments, return_dict=True)


class Mllama(ZooEntry):
    """Two cross-attention layers of four; four tiles per image, masked where it has fewer.

    An image is one token of the prompt; `counts` is the number of its vision tokens, the class
    token of every tile included.
    """

    name = "mllama"
    traits = Traits(
        container="none",
        has_cls=True,
        ragged=True,
        tiles=True,
        encoder_side=True,
        upstream={
            "batch": PREFIX,
            "batch_forward": PREFIX,
            "right_padding": PREFIX,
            "encoder_outputs": "no get_image_features; mm_encoder_outputs is ignored, silently",
            "chunked_prefill": "raw pixel inputs cannot be split into chunks",
            "second_turn": PREFIX,
            "assistant_model": "the cross-attention mask is one token short",
        },
        spared=("expansion",),
    )
    architecture = "MllamaForConditionalGeneration"
    tiles = 4
    patches = 16

    def config(self) -> PreTrainedConfig:
        vision = {
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 3,
            "num_global_layers": 1,
            "attention_heads": 2,
            "image_size": 16,
            "patch_size": 4,
            "max_num_tiles": self.tiles,
            "intermediate_layers_indices": [0, 1],
            "vision_output_dim": 96,
        }
        return self.made(
            vision_config=vision,
            text_config=language(cross_attention_layers=[1, 3]),
            image_token_index=VOCAB,
        )

    def redraw(self, model: PreTrainedModel, seed: int) -> None:
        """Gates are opened, as training would have."""
        super().redraw(model, seed)
        for name, parameter in model.named_parameters():
            if name.rpartition(".")[2] in ("gate", "cross_attn_attn_gate", "cross_attn_mlp_gate"):
                parameter.add_(0.8)

    def counts(self, model: PreTrainedModel, image: Image, alone: bool = True) -> int:
        return prod(TILES[image.kind]) * (self.patches + 1)

    def image_ids(self, model: PreTrainedModel, image: Image, alone: bool = True) -> list[int]:
        return [self.image_token_id(model)]

    def visual_inputs(
        self, model: PreTrainedModel, rows: Sequence[Sequence[Image]]
    ) -> dict[str, Any]:
        shape = len(rows), max(map(len, rows))
        values = torch.zeros(*shape, self.tiles, 3, 16, 16)
        ids = torch.zeros(shape, dtype=torch.long)
        mask = torch.zeros(*shape, self.tiles, dtype=torch.long)
        mask[:, :, 0] = 1
        ratios = model.config.vision_config.supported_aspect_ratios
        for index, row in enumerate(rows):
            for place, image in enumerate(row):
                ratio = TILES[image.kind]
                number = prod(ratio)
                values[index, place, :number] = pixels(image, number, 3, 16, 16)
                ids[index, place] = ratios.index(list(ratio)) + 1
                mask[index, place, :number] = 1
        return {"pixel_values": values, "aspect_ratio_ids": ids, "aspect_ratio_mask": mask}

    def batch(
        self,
        model: PreTrainedModel,
        ids: Sequence[Sequence[int]],
        images: Sequence[Sequence[Image]],
        side: Side = "left",
    ) -> dict[str, Any]:
        batch = super().batch(model, ids, images, side)
        if "pixel_values" in batch:
            padded = batch["input_ids"].tolist()
            dense = convert_sparse_cross_attention_mask_to_dense(
                [get_cross_attention_token_mask(row, self.image_token_id(model)) for row in padded],
                num_tiles=[[prod(TILES[image.kind]) for image in row] for row in images],
                max_num_tiles=self.tiles,
                length=len(padded[0]),
            )
            batch["cross_attention_mask"] = torch.from_numpy(dense)
        return batch

    def features(self, model: PreTrainedModel, inputs: Mapping[str, Any]) -> Any:
        """What the vision model returns; `last_hidden_state` goes through the projector."""
        names = ("pixel_values", "aspect_ratio_ids", "aspect_ratio_mask")
        return model.model.vision_model(**{name: inputs[name] for name in names})
