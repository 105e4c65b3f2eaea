"""Models without a vision transformer.

In Chameleon, Emu3 and Apertus 1.5 an image becomes codes of the vocabulary; in Fuyu the language
model reads the patches themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from inspect import signature
from typing import Any

import torch
import transformers
from transformers import (
    ChameleonConfig,
    ChameleonForConditionalGeneration,
    Emu3Config,
    Emu3ForConditionalGeneration,
    FuyuConfig,
    FuyuForCausalLM,
    PersimmonConfig,
    PreTrainedConfig,
    PreTrainedModel,
)

from .base import BOS, NEWLINE, TEXT, VOCAB, Image, Kind, Traits, ZooEntry, flat, pixels

START, END, IMAGE = range(VOCAB - 3, VOCAB)
WRAPPER, LINE, FRAME = range(VOCAB - 6, VOCAB - 3)
CODES = range(VOCAB, VOCAB + 64)
"""Ids that images are made of, above all that text is made of."""

GRIDS: dict[Kind, tuple[int, int]] = {
    "small": (3, 4),
    "square": (5, 5),
    "wide": (3, 7),
    "tall": (6, 4),
}
"""Rows and columns of codes or patches."""


def text(**options: Any) -> dict[str, Any]:
    return {
        "vocab_size": CODES.stop,
        "hidden_size": 48,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    } | options


def sized(images: Sequence[Image], least: int = 0) -> dict[str, Any]:
    """Images of 4x4 pixels a code, padded on the right and below to the largest, and sizes."""
    sizes = torch.tensor([GRIDS[image.kind] for image in images]) * 4
    values = torch.zeros(len(images), 3, *sizes.amax(dim=0).clamp(min=least).tolist())
    for value, image, (height, width) in zip(values, images, sizes.tolist(), strict=True):
        value[:, :height, :width] = pixels(image, 3, height, width)
    return {"pixel_values": values, "image_sizes": sizes}


class Chameleon(ZooEntry):
    """A square of 6x6 codes between start and end; the embeddings are those of the vocabulary."""

    name = "chameleon"
    traits = Traits(container="tensor", codes=True, reads="features")
    model_class = ChameleonForConditionalGeneration
    wrap = ((START,), (END,))

    def config(self) -> PreTrainedConfig:
        codes = {
            "embed_dim": 8,
            "num_embeddings": len(CODES),
            "latent_channels": 8,
            "resolution": 24,
            "base_channels": 32,
            "channel_multiplier": [1, 1, 1],
            "num_res_blocks": 1,
        }
        letters = str.maketrans("0123456789", "ABCDEFGHIJ")
        names = {f"IMGIMG{str(i).translate(letters)}Z": code for i, code in enumerate(CODES)}
        return ChameleonConfig(vq_config=codes, vocabulary_map={"<image>": IMAGE} | names, **text())

    def counts(self, model: PreTrainedModel, image: Image, alone: bool = True) -> int:
        return 36

    def visual_inputs(
        self, model: PreTrainedModel, rows: Sequence[Sequence[Image]]
    ) -> dict[str, Any]:
        return {"pixel_values": torch.stack([pixels(image, 3, 24, 24) for image in flat(rows)])}


class Emu3(ZooEntry):
    """A row of codes ends with a code of its own, a placeholder too; the size is written before.

    The codes depend on how far an image is padded, so here every call pads to the same size.
    """

    name = "emu3"
    traits = Traits(container="tuple", ragged=True, codes=True, reads="features")
    model_class = Emu3ForConditionalGeneration
    feature_arguments = ("pixel_values", "image_sizes")

    def config(self) -> PreTrainedConfig:
        codes = {
            "codebook_size": len(CODES),
            "embed_dim": 4,
            "latent_channels": 4,
            "temporal_downsample_factor": 2,
            "base_channels": 32,
            "channel_multiplier": [1, 1, 1],
            "num_res_blocks": 1,
            "attn_resolutions": [2],
            "hidden_size": 32,
        }
        names = {f"<|visual token {i:06d}|>": code for i, code in enumerate(CODES)}
        return Emu3Config(
            vq_config=codes,
            text_config=text(attention_dropout=0.0),
            vocabulary_map={"<image>": IMAGE, "<|extra_200|>": LINE} | names,
        )

    def counts(self, model: PreTrainedModel, image: Image, alone: bool = True) -> int:
        rows, columns = GRIDS[image.kind]
        return rows * (columns + 1)

    def image_ids(self, model: PreTrainedModel, image: Image, alone: bool = True) -> list[int]:
        rows, columns = GRIDS[image.kind]
        size = [TEXT.start + rows, TEXT.start, TEXT.start + columns]
        run = [self.image_token_id(model)] * self.counts(model, image)
        return [START, *size, WRAPPER, *run, FRAME, END]

    def visual_inputs(
        self, model: PreTrainedModel, rows: Sequence[Sequence[Image]]
    ) -> dict[str, Any]:
        return sized(flat(rows), least=28)


class Apertus1p5(Emu3):
    """As Emu3, each image encoded at its own size, its rows parted by tokens that are no codes.

    The head knows only the ids of text.
    """

    name = "apertus1p5"
    traits = Traits(
        container="tuple", ragged=True, gap_tokens=True, codes=True, reads="features", passes=3
    )  # one for each image of the tests' prompt
    model_class = getattr(transformers, "Apertus1p5ForConditionalGeneration", None)

    def attention(self, implementation: str) -> str | dict[str, str]:
        return {"text_config": implementation}

    def config(self) -> PreTrainedConfig:
        vision = {
            "codebook_size": len(CODES),
            "embed_dim": 8,
            "latent_channels": 8,
            "base_channels": 32,
            "channel_multiplier": [1, 1, 1],
            "num_res_blocks": 1,
            "attn_resolutions": [],
        }
        audio = {
            "num_filters": 4,
            "upsampling_ratios": [2, 2],
            "num_lstm_layers": 1,
            "hidden_size": 8,
            "codebook_dim": 8,
            "codebook_size": 4,
        }
        return transformers.Apertus1p5Config(
            vision_config=vision,
            audio_config=audio,
            text_config=text(
                vocab_size=CODES.stop + 4,
                output_vocab_size=VOCAB,
                rope_parameters={"rope_type": "default", "rope_theta": 1e6},
            ),
            image_token_id=IMAGE,
            audio_token_id=VOCAB - 7,
            image_token_offset=CODES.start,
            audio_token_offset=CODES.stop,
        )

    def counts(self, model: PreTrainedModel, image: Image, alone: bool = True) -> int:
        rows, columns = GRIDS[image.kind]
        return rows * columns

    def image_ids(self, model: PreTrainedModel, image: Image, alone: bool = True) -> list[int]:
        rows, columns = GRIDS[image.kind]
        size = [TEXT.start + rows, TEXT.start, TEXT.start + columns]
        line = [*[self.image_token_id(model)] * columns, LINE]
        return [START, *size, WRAPPER, *(line * rows)[:-1], END]

    def visual_inputs(
        self, model: PreTrainedModel, rows: Sequence[Sequence[Image]]
    ) -> dict[str, Any]:
        return sized(flat(rows))


class Fuyu(ZooEntry):
    """Patches go through one linear layer; each row of them ends with a newline of the text.

    The processor takes one image a row, in front, and BOS after it; the model takes any.
    """

    name = "fuyu"
    traits = Traits(
        container="last_hidden_state",
        unit="token",
        ragged=True,
        gap_tokens=True,
        reads="features",
        upstream={
            "expansion": "the features live in last_hidden_state, which is not expanded",
            "chunked_prefill": "no pooler_output to cut into chunks",
        },
    )
    # before transformers 5.21 its forward called the pixels otherwise than its encoder
    model_class = (
        FuyuForCausalLM if "pixel_values" in signature(FuyuForCausalLM.forward).parameters else None
    )
    bos = False
    wrap = ((), (BOS,))

    def config(self) -> PreTrainedConfig:
        language = text(intermediate_size=96, vocab_size=VOCAB)
        del language["num_key_value_heads"]
        return FuyuConfig(
            text_config=PersimmonConfig(**language), patch_size=4, image_token_id=IMAGE
        )

    def counts(self, model: PreTrainedModel, image: Image, alone: bool = True) -> int:
        rows, columns = GRIDS[image.kind]
        return rows * columns

    def image_ids(self, model: PreTrainedModel, image: Image, alone: bool = True) -> list[int]:
        rows, columns = GRIDS[image.kind]
        return [*([self.image_token_id(model)] * columns + [NEWLINE]) * rows, BOS]

    def visual_inputs(
        self, model: PreTrainedModel, rows: Sequence[Sequence[Image]]
    ) -> dict[str, Any]:
        patches = [pixels(image, self.counts(model, image), 48) for image in flat(rows)]
        return {"pixel_values": torch.cat(patches)}
