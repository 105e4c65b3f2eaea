"""Models without a vision transformer.

In Chameleon, Emu3 and Apertus 1.5 an image becomes codes of the vocabulary; in Fuyu the language
model reads the patches themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PersimmonConfig, PreTrainedConfig, PreTrainedModel

from .base import BOS, NEWLINE, TEXT, VOCAB, Image, Kind, Traits, ZooEntry, flat, pixels
from .layouts import SquareEntry, sized
from .parts import CLOSE, IMAGE, OPEN, language
from .reasons import UNPROJECTED

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
    """A language model of three layers that knows the codes."""
    return language(vocab_size=CODES.stop, num_hidden_layers=3) | options


def grids(images: Sequence[Image]) -> list[tuple[int, int]]:
    return [GRIDS[image.kind] for image in images]


class Chameleon(SquareEntry):
    """A square of 6x6 codes between start and end; the embeddings are those of the vocabulary."""

    name = "chameleon"
    traits = Traits(container="tensor", codes=True, reads="features")
    architecture = "ChameleonForConditionalGeneration"
    wrap = ((OPEN,), (CLOSE,))

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
        return self.made(vq_config=codes, vocabulary_map={"<image>": IMAGE} | names, **text())


class Emu3(ZooEntry):
    """A row of codes ends with a code of its own, a placeholder too; the size is written before.

    The codes depend on how far an image is padded, so here every call pads to the same size.
    """

    name = "emu3"
    traits = Traits(container="tuple", ragged=True, codes=True, reads="features")
    architecture = "Emu3ForConditionalGeneration"
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
        return self.made(
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
        return [OPEN, *size, WRAPPER, *run, FRAME, CLOSE]

    def visual_inputs(
        self, model: PreTrainedModel, rows: Sequence[Sequence[Image]]
    ) -> dict[str, Any]:
        images = flat(rows)
        return sized(images, grids(images), least=28)


class Apertus1p5(Emu3):
    """As Emu3, each image encoded at its own size, its rows parted by tokens that are no codes.

    The head knows only the ids of text.
    """

    name = "apertus1p5"
    traits = Traits(
        container="tuple", ragged=True, gap_tokens=True, codes=True, reads="features", passes=3
    )  # one for each image of the tests' prompt
    architecture = "Apertus1p5ForConditionalGeneration"
    since = (5, 24)

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
        return self.made(
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
        return [OPEN, *size, WRAPPER, *(line * rows)[:-1], CLOSE]

    def visual_inputs(
        self, model: PreTrainedModel, rows: Sequence[Sequence[Image]]
    ) -> dict[str, Any]:
        images = flat(rows)
        return sized(images, grids(images))


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
        upstream=UNPROJECTED,
    )
    architecture = "FuyuForCausalLM"
    since = (5, 21)  # before, its forward called the pixels otherwise than its encoder
    bos = False
    wrap = ((), (BOS,))

    def config(self) -> PreTrainedConfig:
        settings = text(intermediate_size=96, vocab_size=VOCAB)
        del settings["num_key_value_heads"]
        return self.made(
            text_config=PersimmonConfig(**settings), patch_size=4, image_token_id=IMAGE
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
