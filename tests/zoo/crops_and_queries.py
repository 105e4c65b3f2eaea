"""Models that see an image as several crops, or turn it into learned queries.

Got-OCR2, Ovis2, PerceptionLM and DeepSeek-OCR2 cut an image into crops; Aria, Idefics2 and
DeepSeek-OCR2 read every crop with queries of its own, which lie on no grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AriaConfig,
    AriaForConditionalGeneration,
    AriaTextConfig,
    AutoConfig,
    AutoModel,
    DeepseekOcr2Config,
    DeepseekOcr2ForConditionalGeneration,
    GotOcr2Config,
    GotOcr2ForConditionalGeneration,
    Idefics2Config,
    Idefics2ForConditionalGeneration,
    MistralConfig,
    Ovis2Config,
    Ovis2ForConditionalGeneration,
    PerceptionLMConfig,
    PerceptionLMForConditionalGeneration,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.idefics3.configuration_idefics3 import Idefics3VisionConfig

from .base import RELEASE, VOCAB, Image, Kind, Traits, VideoEntry, ZooEntry, flat, pixels
from .llava import llama, qwen2
from .tiles import TILES, InternVL, tiles

START, END, IMAGE = range(VOCAB - 3, VOCAB)


def sam(**options: Any) -> dict[str, Any]:
    """Three layers of SAM, the second of them global; patches of 2x2 pixels."""
    return {
        "hidden_size": 32,
        "output_channels": 16,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 2,
        "window_size": 8,
        "global_attn_indexes": [1],
        "mlp_dim": 48,
    } | options


class GotOcr2(InternVL):
    """SAM; two strided convolutions make 4x4 tokens of 16x16 patches. One run for all crops."""

    name = "got_ocr2"
    traits = Traits(container="tensor", unit="tile", ragged=True, tiles=True, reads="patches")
    model_class = GotOcr2ForConditionalGeneration

    def attention(self, implementation: str) -> str | dict[str, str]:
        return {"text_config": implementation}

    config_class: type[PreTrainedConfig] = GotOcr2Config

    def config(self) -> PreTrainedConfig:
        return self.config_class(
            vision_config=sam(),
            text_config=qwen2(),
            image_token_index=IMAGE,
            image_seq_length=16,
            tie_word_embeddings=False,
        )


class Ovis2(InternVL):
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
    model_class = Ovis2ForConditionalGeneration
    start, grid, column, row, end = range(VOCAB - 6, VOCAB - 1)

    def config(self) -> PreTrainedConfig:
        vision = {
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "image_size": 32,
            "patch_size": 4,
            "hidden_stride": 2,
            "vocab_size": 45,
        }
        text = qwen2()
        return Ovis2Config(
            vision_config=vision,
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


class PatchesConfig(PreTrainedConfig):
    """Configuration of `Patches`."""

    model_type = "lftr_zoo_patches"
    hidden_size: int = 32
    patch_size: int = 4
    model_args: dict[str, Any] | None = None


class Patches(PreTrainedModel):
    """A ViT with a class token whose attention is its own, as that of timm's towers is.

    The checkpoints' own, the Perception Encoder, comes from timm, which the tests do without
    (`test_timm.py` runs it where it is installed).
    """

    config_class = PatchesConfig
    _supports_sdpa = True

    def __init__(self, config: PatchesConfig) -> None:
        super().__init__(config)
        width = config.hidden_size
        self.embed = nn.Conv2d(3, width, config.patch_size, config.patch_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.places = nn.Parameter(torch.zeros(1, 65, width))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 2, 48, 0.0, batch_first=True) for _ in range(2)
        )
        self.post_init()

    def forward(self, pixel_values: Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        states = self.embed(pixel_values).flatten(2).mT
        states = torch.cat([self.cls_token.expand(len(states), -1, -1), states], dim=1)
        states = states + self.places[:, : states.shape[1]]
        for block in self.blocks:
            states = block(states)
        return BaseModelOutputWithPooling(last_hidden_state=states)


AutoConfig.register(PatchesConfig.model_type, PatchesConfig, exist_ok=True)
AutoModel.register(PatchesConfig, Patches, exist_ok=True)


class PerceptionLM(VideoEntry):
    """A thumbnail and two crops of every image, in one run; patches averaged two by two.

    Images of one call have one number of crops: `pixel_values` is `(images, crops, ...)`. Clips are
    frames in place of crops; its `forward` shows them to the encoder of images.
    """

    name = "perception_lm"
    traits = Traits(container="tensor", unit="tile", tiles=True, reads="patches")
    video_traits = Traits(
        container="tensor",
        unit="frame",
        reads="patches",
        upstream={
            "expansion": "generate does not encode clips, and repeats their pixels one by one",
            "chunked_prefill": "generate does not encode clips, so that they cannot be cut",
        },
    )
    model_class = PerceptionLMForConditionalGeneration
    crops, frames = 3, 2

    def config(self) -> PreTrainedConfig:
        return PerceptionLMConfig(
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

    def clip_counts(self, model: PreTrainedModel, clip: Image) -> int:
        return 16 * self.frames

    def clip_inputs(
        self, model: PreTrainedModel, rows: Sequence[Sequence[Image]]
    ) -> dict[str, Any]:
        values = [pixels(clip, self.frames, 3, 32, 32, part="clip") for clip in flat(rows)]
        return {"pixel_values_videos": torch.stack(values)}

    def clip_features(self, model: PreTrainedModel, pixel_values_videos: Tensor) -> Any:
        return model.base_model.get_image_features(pixel_values_videos, return_dict=True)


class DeepseekOcr2(InternVL):
    """SAM, then a decoder in which 16 queries follow the 16 patches of a view.

    Crops come first, the whole image after them, a learned separator last, all in one run. The
    checkpoints have 144 queries for a crop and 256 for the whole image.
    """

    name = "deepseek_ocr2"
    traits = Traits(container="list", ragged=True, tiles=True, passes=2, reads="features")
    model_class = DeepseekOcr2ForConditionalGeneration
    feature_arguments = ("pixel_values", "pixel_values_local", "num_local_patches")
    wrap = ((), ())

    def config(self) -> PreTrainedConfig:
        encoder = {
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
        }
        text = {
            "vocab_size": VOCAB,
            "hidden_size": 48,
            "intermediate_size": 64,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "max_position_embeddings": 2048,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "n_shared_experts": 1,
            "moe_intermediate_size": 32,
            "mlp_layer_types": ["dense", "sparse", "sparse"],
            "pad_token_id": 0,
        }
        vision = {"sam_config": sam(downsample_channels=[24, 32]), "encoder_config": encoder}
        return DeepseekOcr2Config(
            vision_config=vision,
            text_config=text,
            image_token_id=IMAGE,
            tie_word_embeddings=False,
        )

    def redraw(self, model: PreTrainedModel, seed: int) -> None:
        for name in ("query_768_resolution", "query_1024_resolution"):
            queries = nn.Embedding.from_pretrained(torch.empty(16, 32))
            setattr(model.base_model.vision_tower, name, queries)
        super().redraw(model, seed)

    def local(self, image: Image) -> int:
        """Number of crops beside the whole image."""
        return tiles(image) - 1

    def counts(self, model: PreTrainedModel, image: Image, alone: bool = True) -> int:
        return 16 * (self.local(image) + 1) + 1

    def visual_inputs(
        self, model: PreTrainedModel, rows: Sequence[Sequence[Image]]
    ) -> dict[str, Any]:
        images = flat(rows)
        found: dict[str, Any] = {
            "pixel_values": torch.stack([pixels(image, 3, 32, 32) for image in images]),
            "num_local_patches": torch.tensor([self.local(image) for image in images]),
        }
        crops = [pixels(i, self.local(i), 3, 32, 32, part="crops") for i in images if self.local(i)]
        return found | ({"pixel_values_local": torch.cat(crops)} if crops else {})


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


class Aria(ZooEntry):
    """Idefics3's tower, eight queries that look at the patches of a padded square, experts."""

    name = "aria"
    traits = Traits(container="tensor", reads="features")
    model_class = AriaForConditionalGeneration
    feature_arguments = ("pixel_values", "pixel_mask")

    def config(self) -> PreTrainedConfig:
        vision = Idefics3VisionConfig(
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=3,
            num_attention_heads=2,
            image_size=24,
            patch_size=4,
        )
        text = AriaTextConfig(
            vocab_size=VOCAB,
            hidden_size=48,
            intermediate_size=32,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            moe_num_experts=4,
            moe_topk=2,
            moe_num_shared_experts=1,
            pad_token_id=0,
        )
        return AriaConfig(
            vision_config=vision,
            text_config=text,
            image_token_index=IMAGE,
            projector_patch_to_query_dict={36: 16},
        )

    def counts(self, model: PreTrainedModel, image: Image, alone: bool = True) -> int:
        return 16

    def visual_inputs(
        self, model: PreTrainedModel, rows: Sequence[Sequence[Image]]
    ) -> dict[str, Any]:
        images = flat(rows)
        masks = torch.stack([filled(image) for image in images])
        values = torch.stack([pixels(image, 3, 24, 24) for image in images])
        return {"pixel_values": values * masks[:, None], "pixel_mask": masks}


class Idefics2(ZooEntry):
    """Images of any shape in padded squares; a perceiver makes 16 latents of each.

    Images of a row share one axis, which is padded to the batch with images of zeros.
    """

    name = "idefics2"
    traits = Traits(
        container="list" if RELEASE >= (5, 20) else "tensor",
        unit="row" if RELEASE >= (5, 20) else "image",
        reads="features",
    )
    model_class = Idefics2ForConditionalGeneration
    feature_arguments = ("pixel_values", "pixel_attention_mask")
    wrap = ((START,), (START,))

    def config(self) -> PreTrainedConfig:
        vision = {
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "image_size": 24,
            "patch_size": 4,
        }
        perceiver = {
            "hidden_size": 48,
            "resampler_n_latents": 16,
            "resampler_depth": 2,
            "resampler_n_heads": 4,
            "resampler_head_dim": 8,
            "num_key_value_heads": 2,
        }
        text = MistralConfig(
            vocab_size=VOCAB,
            hidden_size=48,
            intermediate_size=64,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=2048,
            sliding_window=None,
            pad_token_id=0,
        )
        return Idefics2Config(
            vision_config=vision,
            perceiver_config=perceiver,
            text_config=text,
            image_token_id=IMAGE,
        )

    def counts(self, model: PreTrainedModel, image: Image, alone: bool = True) -> int:
        return 16

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
