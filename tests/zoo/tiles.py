"""Models that cut an image into tiles of one size and show the whole image as one more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import InternVLVisionConfig, PreTrainedConfig, PreTrainedModel, Qwen3Config

from .base import NEWLINE, RELEASE, VOCAB, Fault, Image, Traits, flat, pixels
from .layouts import TILES, FramesEntry, TileEntry, tile_pixels, tiles
from .parts import CLOSE, IMAGE, OPEN, cohere2, language, llama, qwen2, sam, siglip, tower
from .reasons import UNPROJECTED
from .towers import PatchesConfig


class InternVL(TileEntry):
    """Tiles of 8x8 patches, shuffled to 4x4 tokens, thumbnail last, one run of placeholders."""

    name = "internvl"
    traits = Traits(container="tensor", unit="tile", has_cls=True, ragged=True, tiles=True)
    architecture = "InternVLForConditionalGeneration"

    def config(self) -> PreTrainedConfig:
        return self.made(
            vision_config=InternVLVisionConfig(**tower(image_size=32)),
            text_config=qwen2(),
            image_token_id=IMAGE,
            image_seq_length=16,
            tie_word_embeddings=False,
        )


class QianfanOcr(InternVL):
    """InternVL's tiles, a tower of the same parts with dropout paths, Qwen3 text."""

    name = "qianfan_ocr"
    architecture = "QianfanOCRForConditionalGeneration"

    def config(self) -> PreTrainedConfig:
        return self.made(
            vision_config=tower(image_size=32),
            text_config=Qwen3Config(**language(head_dim=16)),
            image_token_id=IMAGE,
            image_seq_length=16,
            tie_word_embeddings=False,
        )


class GotOcr2(TileEntry):
    """SAM; two strided convolutions make 4x4 tokens of 16x16 patches. One run for all crops."""

    name = "got_ocr2"
    traits = Traits(container="tensor", unit="tile", ragged=True, tiles=True, reads="patches")
    architecture = "GotOcr2ForConditionalGeneration"

    def attention(self, implementation: str) -> str | dict[str, str]:
        return {"text_config": implementation}

    def config(self) -> PreTrainedConfig:
        return self.made(
            vision_config=sam(),
            text_config=qwen2(),
            image_token_index=IMAGE,
            image_seq_length=16,
            tie_word_embeddings=False,
        )


class Ovis2(TileEntry):
    """Every patch is a mixture of visual words. The whole image first, separators between crops.

    The separators' embeddings come with the encoder's output.
    """

    name = "ovis2"
    traits = Traits(
        container="tensor",
        unit="tile",
        ragged=True,
        tiles=True,
        gap_tokens=True,
        upstream={"chunked_prefill": "a chunk of the features lacks those of the separators"},
    )
    architecture = "Ovis2ForConditionalGeneration"
    start, grid, column, row, end = range(VOCAB - 6, VOCAB - 1)

    def config(self) -> PreTrainedConfig:
        text = qwen2()
        return self.made(
            vision_config=tower(image_size=32, hidden_stride=2, vocab_size=45),
            text_config=text,
            image_token_id=IMAGE,
            visual_indicator_token_ids=[self.start, self.grid, self.column, self.row, self.end],
            vocab_size=text.vocab_size,
            hidden_size=text.hidden_size,
            tie_word_embeddings=False,
        )

    def image_ids(self, model: PreTrainedModel, image: Image, alone: bool = True) -> list[int]:
        run = [self.image_token_id(model)] * 16
        rows, columns = TILES[image.kind]
        ids = [self.start, *run, self.grid]
        if rows * columns > 1:
            for row in range(rows):
                for column in range(columns):
                    ids += [*run, self.column] if column < columns - 1 else run
                if row < rows - 1:
                    ids.append(self.row)
        return [*ids, self.end]


class PerceptionLM(FramesEntry):
    """A thumbnail and two crops of every image, in one run; patches averaged two by two.

    Images of one call have one number of crops: `pixel_values` is `(images, crops, ...)`. Clips are
    frames in place of crops; its `forward` shows them to the encoder of images.
    """

    name = "perception_lm"
    traits = Traits(container="tensor", unit="tile", tiles=True, reads="patches")
    clip_traits: Mapping[str, Any] = {
        "unit": "frame",
        "tiles": False,
        "upstream": {
            "expansion": "generate does not encode clips, and repeats their pixels one by one",
            "chunked_prefill": "generate does not encode clips, so that they cannot be cut",
        },
    }
    architecture = "PerceptionLMForConditionalGeneration"
    crops, frames, frame_tokens, side = 3, 2, 16, 32

    def config(self) -> PreTrainedConfig:
        return self.made(
            vision_config=PatchesConfig(model_args={"embed_dim": 32}),
            text_config=llama(),
            image_token_id=IMAGE,
            video_token_id=IMAGE - 1,
            projector_pooling_ratio=2,
            tie_word_embeddings=False,
        )

    def counts(self, model: PreTrainedModel, image: Image, alone: bool = True) -> int:
        return 16 * self.crops

    def visual_inputs(
        self, model: PreTrainedModel, rows: Sequence[Sequence[Image]]
    ) -> dict[str, Any]:
        values = [pixels(image, self.crops, 3, 32, 32) for image in flat(rows)]
        return {"pixel_values": torch.stack(values)}

    def clip_features(self, model: PreTrainedModel, pixel_values_videos: Tensor) -> Any:
        return model.base_model.get_image_features(pixel_values_videos, return_dict=True)


class Idefics3(TileEntry):
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
    architecture = "Idefics3ForConditionalGeneration"
    wrap = ((), ())
    feature_arguments = ("pixel_values", "pixel_attention_mask")
    fake, global_tag = VOCAB - 2, VOCAB - 3
    places = VOCAB - 20
    """`<row_1_col_1>`; four columns per row."""

    def config(self) -> PreTrainedConfig:
        return self.made(
            vision_config=tower(image_size=32),
            text_config=llama(),
            image_token_id=IMAGE,
            scale_factor=2,
        )

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
    architecture = "SmolVLMForConditionalGeneration"


class GraniteDocling(Idefics3):
    """Idefics3's tiles and tags, no thumbnail of an image of one tile; two DeepStack planes."""

    name = "granite_docling"
    architecture = "GraniteDoclingForConditionalGeneration"
    since = (5, 23)
    traits = Traits(
        container="tuple", unit="row", ragged=True, tiles=True, gap_tokens=True, deepstack=2
    )

    def config(self) -> PreTrainedConfig:
        vision = tower(
            image_size=32, out_hidden_size=48, scale_factor=2, deepstack_visual_indexes=[0, 1]
        )
        text = language(
            tie_word_embeddings=False,
            embedding_multiplier=2.0,
            logits_scaling=1.0,
            residual_multiplier=0.5,
            attention_multiplier=0.25,
        )
        return self.made(
            vision_config=vision,
            text_config=text,
            image_token_id=IMAGE,
            pad_token_id=0,
            tie_word_embeddings=False,
        )

    def image_ids(self, model: PreTrainedModel, image: Image, alone: bool = True) -> list[int]:
        if tiles(image) > 1:
            return super().image_ids(model, image, alone)
        return [self.fake, self.places, *[self.image_token_id(model)] * 16, NEWLINE]

    def visual_inputs(
        self, model: PreTrainedModel, rows: Sequence[Sequence[Image]]
    ) -> dict[str, Any]:
        found = super().visual_inputs(model, rows)
        return found | {"pixel_attention_mask": found["pixel_attention_mask"][:, :, 0, 0].bool()}


class AyaVision(TileEntry):
    """Tiles as InternVL's; a tag stands before the placeholders of each, the thumbnail last."""

    name = "aya_vision"
    traits = Traits(container="tensor", unit="tile", ragged=True, tiles=True, gap_tokens=True)
    architecture = "AyaVisionForConditionalGeneration"
    tags = VOCAB - 20
    global_tag = VOCAB - 4

    def config(self) -> PreTrainedConfig:
        return self.made(
            vision_config=siglip(32),
            text_config=cohere2(),
            image_token_index=IMAGE,
            alignment_intermediate_size=64,
            tie_word_embeddings=False,
        )

    def image_ids(self, model: PreTrainedModel, image: Image, alone: bool = True) -> list[int]:
        run = [self.image_token_id(model)] * 16
        tags = [self.tags + tile for tile in range(tiles(image) - 1)] + [self.global_tag]
        return [OPEN, *(token for tag in tags for token in (tag, *run)), CLOSE]


class Cohere2Vision(TileEntry):
    """Tiles as InternVL's; a line break follows the placeholders of each."""

    name = "cohere2_vision"
    traits = Traits(container="tensor", unit="tile", ragged=True, tiles=True, gap_tokens=True)
    architecture = "Cohere2VisionForConditionalGeneration"
    line_break = VOCAB - 4

    def config(self) -> PreTrainedConfig:
        return self.made(
            vision_config=siglip(32),
            text_config=cohere2(),
            image_token_id=IMAGE,
            alignment_intermediate_size=64,
            tie_word_embeddings=False,
        )

    def image_ids(self, model: PreTrainedModel, image: Image, alone: bool = True) -> list[int]:
        tile = [self.image_token_id(model)] * 16 + [self.line_break]
        return [OPEN, *tile * tiles(image), CLOSE]


class Llama4(TileEntry):
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
        upstream=UNPROJECTED,
        faults={
            "static_cache": Fault("its masks are asked for with an unknown argument", fixed=(5, 20))
        },
    )
    architecture = "Llama4ForConditionalGeneration"
    across, down, global_tag = VOCAB - 4, VOCAB - 5, VOCAB - 6

    def config(self) -> PreTrainedConfig:
        vision = tower(
            intermediate_size=128,
            image_size=32,
            projector_input_dim=40,
            projector_output_dim=40,
            vision_output_dim=40,
        )
        text = language(
            intermediate_size_mlp=64,
            head_dim=16,
            num_local_experts=2,
            interleave_moe_layer_step=2,
            attention_chunk_size=32,
        )
        return self.made(
            vision_config=vision,
            text_config=text,
            boi_token_index=OPEN,
            eoi_token_index=CLOSE,
            image_token_index=IMAGE,
        )

    def image_ids(self, model: PreTrainedModel, image: Image, alone: bool = True) -> list[int]:
        run = [self.image_token_id(model)] * 16
        rows, columns = TILES[image.kind]
        ids = [OPEN]
        if rows * columns > 1:
            for _ in range(rows):
                for column in range(columns):
                    ids += [*run, self.across] if column < columns - 1 else run
                ids.append(self.down)
        return [*ids, self.global_tag, *run, CLOSE]
