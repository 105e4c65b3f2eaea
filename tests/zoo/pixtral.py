"""Pixtral's tower: images at their own size, at one-dimensional positions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor
from transformers import MistralConfig, PreTrainedConfig, PreTrainedModel, Qwen3Config

from .base import VOCAB, Corner, Image, Traits, ZooEntry, flat
from .layouts import GridEntry, sized
from .parts import IMAGE, ROPE, language, pixtral, routed


class Mistral3(GridEntry):
    """A break token after every row of placeholders, an end token after the last."""

    name = "mistral3"
    traits = Traits(container="tuple", ragged=True, gap_tokens=True)
    architecture = "Mistral3ForConditionalGeneration"
    feature_arguments = ("pixel_values", "image_sizes")
    row_break, end = VOCAB - 2, VOCAB - 3

    def config(self) -> PreTrainedConfig:
        return self.made(
            vision_config=pixtral(),
            text_config=MistralConfig(**language(head_dim=16, sliding_window=None)),
            image_token_index=IMAGE,
            tie_word_embeddings=False,
        )

    def image_ids(self, model: PreTrainedModel, image: Image, alone: bool = True) -> list[int]:
        _, height, width = self.grid(image)
        row = [self.image_token_id(model)] * (width // 2) + [self.row_break]
        return [*(row * (height // 2))[:-1], self.end]

    def visual_inputs(
        self, model: PreTrainedModel, rows: Sequence[Sequence[Image]]
    ) -> dict[str, Any]:
        images = flat(rows)
        return sized(images, [self.grid(image)[1:] for image in images])

    def paint(self, values: Tensor, inputs: Mapping[str, Any], corner: Corner, clips: bool) -> None:
        """Images are padded to the largest."""
        height, width = inputs["image_sizes"][0].tolist()
        super().paint(values[..., :height, :width], inputs, corner, clips)


class LightOnOcr(Mistral3):
    """Pixtral's tower as in Mistral 3, without its break and end tokens; Qwen3 text."""

    name = "lighton_ocr"
    traits = Traits(container="tuple", ragged=True)
    architecture = "LightOnOcrForConditionalGeneration"

    def config(self) -> PreTrainedConfig:
        return self.made(
            vision_config=pixtral(),
            text_config=Qwen3Config(**language(head_dim=16)),
            image_token_id=IMAGE,
            tie_word_embeddings=False,
        )

    def image_ids(self, model: PreTrainedModel, image: Image, alone: bool = True) -> list[int]:
        return ZooEntry.image_ids(self, model, image, alone)


class MistralLarge4(Mistral3):
    """Latent attention over keys that an indexer chooses; every fourth layer has no positions.

    The indexer would choose more keys than these prompts have. A smaller choice has ties: scores
    pass a ReLU, and which of several zeros is chosen differs between a batch and its rows.
    """

    name = "mistral_large4"
    architecture = "MistralLarge4ForConditionalGeneration"
    since = (5, 22)
    traits = replace(
        Mistral3.traits,
        sealed="an indexer in each layer",
        upstream={"batch_forward": "attention is scaled by positions, which count the padding"},
    )

    def config(self) -> PreTrainedConfig:
        text = language(
            num_key_value_heads=4,
            **routed(),
            kv_lora_rank=16,
            qk_rope_head_dim=8,
            qk_nope_head_dim=8,
            v_head_dim=12,
            index_head_dim=16,
            index_n_heads=2,
            rope_parameters=ROPE,
        )
        return self.made(
            vision_config=pixtral(),
            text_config=text,
            image_token_index=IMAGE,
            tie_word_embeddings=False,
        )
