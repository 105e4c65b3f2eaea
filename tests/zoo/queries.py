"""Aria and Idefics2: learned queries read the patches of an image in a padded square."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import AriaTextConfig, MistralConfig, PreTrainedConfig, PreTrainedModel
from transformers.models.idefics3.configuration_idefics3 import Idefics3VisionConfig

from .base import RELEASE, Image, Kind, Traits, flat, pixels
from .layouts import SquareEntry, squares
from .parts import IMAGE, OPEN, language, tower

PICTURED: dict[Kind, tuple[int, int]] = {
    "small": (24, 24),
    "square": (24, 24),
    "wide": (12, 24),
    "tall": (24, 16),
}
"""Height and width of the part of a square that an image fills; the rest is padding."""


def filled(image: Image) -> Tensor:
    """Which pixels of the square are the image's."""
    mask = torch.zeros(24, 24, dtype=torch.bool)
    height, width = PICTURED[image.kind]
    mask[:height, :width] = True
    return mask


class Aria(SquareEntry):
    """Idefics3's tower, 16 queries that look at the patches of a padded square, experts."""

    name = "aria"
    traits = Traits(container="tensor", reads="features")
    architecture = "AriaForConditionalGeneration"
    feature_arguments = ("pixel_values", "pixel_mask")
    tokens = 16

    def config(self) -> PreTrainedConfig:
        text = AriaTextConfig(
            **language(num_hidden_layers=3, intermediate_size=32),
            moe_num_experts=4,
            moe_topk=2,
            moe_num_shared_experts=1,
        )
        return self.made(
            vision_config=Idefics3VisionConfig(**tower(image_size=24)),
            text_config=text,
            image_token_index=IMAGE,
            projector_patch_to_query_dict={36: 16},
        )

    def visual_inputs(
        self, model: PreTrainedModel, rows: Sequence[Sequence[Image]]
    ) -> dict[str, Any]:
        images = flat(rows)
        masks = torch.stack([filled(image) for image in images])
        return {"pixel_values": squares(images, 24) * masks[:, None], "pixel_mask": masks}


class Idefics2(SquareEntry):
    """Images of any shape in padded squares; a perceiver makes 16 latents of each.

    Images of a row share one axis, which is padded to the batch with images of zeros.
    """

    name = "idefics2"
    traits = Traits(
        container="list" if RELEASE >= (5, 20) else "tensor",
        unit="row" if RELEASE >= (5, 20) else "image",
        reads="features",
    )
    architecture = "Idefics2ForConditionalGeneration"
    feature_arguments = ("pixel_values", "pixel_attention_mask")
    tokens = 16
    wrap = ((OPEN,), (OPEN,))

    def config(self) -> PreTrainedConfig:
        perceiver = {
            "hidden_size": 48,
            "resampler_n_latents": 16,
            "resampler_depth": 2,
            "resampler_n_heads": 4,
            "resampler_head_dim": 8,
            "num_key_value_heads": 2,
        }
        text = MistralConfig(**language(num_hidden_layers=3, sliding_window=None))
        return self.made(
            vision_config=tower(image_size=24),
            perceiver_config=perceiver,
            text_config=text,
            image_token_id=IMAGE,
        )

    def visual_inputs(
        self, model: PreTrainedModel, rows: Sequence[Sequence[Image]]
    ) -> dict[str, Any]:
        most = max(map(len, rows))
        values = torch.zeros(len(rows), most, 3, 24, 24)
        masks = torch.zeros(len(rows), most, 24, 24, dtype=torch.bool)
        for index, row in enumerate(rows):
            for place, image in enumerate(row):
                masks[index, place] = filled(image)
                values[index, place] = pixels(image, 3, 24, 24) * masks[index, place]
        return {"pixel_values": values, "pixel_attention_mask": masks}
