"""LLaVA and its relatives: CLIP or SigLIP tower, MLP projector, Llama or Qwen2."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches
from transformers.models.llava_next.processing_llava_next import LlavaNextProcessor
from transformers.models.llava_onevision.processing_llava_onevision import LlavaOnevisionProcessor

from .base import RELEASE, Image, Kind, Traits, ZooEntry, flat, pixels
from .layouts import FramesEntry, SquareEntry
from .parts import IMAGE, clip, language, llama, qwen2, siglip
from .reasons import INTERLEAVED, NO_POOLER_OUTPUT


class Llava(SquareEntry):
    name = "llava"
    traits = Traits(container="list", has_cls=True)
    architecture = "LlavaForConditionalGeneration"

    def config(self) -> PreTrainedConfig:
        return self.made(
            vision_config=clip(24),
            text_config=llama(),
            image_token_index=IMAGE,
            image_seq_length=36,
        )


class VipLlava(Llava):
    """Five vision layers, concatenated; the class token is dropped after that."""

    name = "vipllava"
    traits = Traits(container="tensor", has_cls=True)
    architecture = "VipLlavaForConditionalGeneration"
    feature_layer = "vision_feature_layer" if RELEASE >= (5, 23) else "vision_feature_layers"

    def config(self) -> PreTrainedConfig:
        return self.made(
            vision_config=clip(24),
            text_config=llama(),
            image_token_index=IMAGE,
            image_seq_length=36,
            **{self.feature_layer: [-2, -3, 0]},
        )


SIZES: dict[Kind, tuple[int, int]] = {
    "small": (14, 30),
    "square": (40, 42),
    "wide": (20, 90),
    "tall": (70, 22),
}
"""Original (height, width) of an image before it is cut into crops."""


class LlavaNext(ZooEntry):
    """Any-resolution crops of 16x16 pixels (4x4 tokens), base crop first, newline per row."""

    name = "llava_next"
    traits = Traits(container="list", has_cls=True, ragged=True, tiles=True)
    architecture = "LlavaNextForConditionalGeneration"
    feature_arguments: tuple[str, ...] = ("pixel_values", "image_sizes")
    crop = 16
    pinpoints: tuple[tuple[int, int], ...] = ((16, 32), (32, 16), (32, 32), (48, 16), (16, 48))

    def config(self) -> PreTrainedConfig:
        return self.made(
            vision_config=clip(self.crop),
            text_config=llama(),
            image_token_index=IMAGE,
            image_seq_length=16,
            image_grid_pinpoints=list(map(list, self.pinpoints)),
        )

    def processor(self, model: PreTrainedModel) -> Any:
        """The real processor, without the parts that need a tokenizer."""
        processor: Any = object.__new__(LlavaNextProcessor)
        processor.patch_size = 4
        processor.num_additional_image_tokens = 1
        processor.vision_feature_select_strategy = "default"
        processor.image_processor = model.config
        return processor

    def counts(self, model: PreTrainedModel, image: Image, alone: bool = True) -> int:
        height, width = SIZES[image.kind]
        processor = self.processor(model)
        return int(processor._get_number_of_features(height, width, self.crop, self.crop)) - 1

    def crops(self, model: PreTrainedModel, image: Image, alone: bool = True) -> int:
        pinpoints = model.config.image_grid_pinpoints
        return int(image_size_to_num_patches(list(SIZES[image.kind]), pinpoints, self.crop))

    def visual_inputs(
        self, model: PreTrainedModel, rows: Sequence[Sequence[Image]]
    ) -> dict[str, Any]:
        images = flat(rows)
        crops = [self.crops(model, image) for image in images]
        values = torch.zeros(len(images), max(crops), 3, self.crop, self.crop)
        for index, (image, number) in enumerate(zip(images, crops, strict=True)):
            values[index, :number] = pixels(image, number, 3, self.crop, self.crop)
        sizes = torch.tensor([SIZES[image.kind] for image in images])
        return {"pixel_values": values, "image_sizes": sizes}


class LlavaNextVideo(FramesEntry, LlavaNext):
    """Frames pooled two by two before the projector."""

    name = "llava_next_video"
    clip_traits: Mapping[str, Any] = {"container": "tensor", "ragged": False, "tiles": False}
    architecture = "LlavaNextVideoForConditionalGeneration"
    clips_since = (5, 20)  # lftr refuses the lists of frames that came before

    def config(self) -> PreTrainedConfig:
        return self.made(
            vision_config=clip(self.crop),
            text_config=llama(),
            image_token_index=IMAGE,
            video_token_index=IMAGE - 1,
            image_grid_pinpoints=list(map(list, self.pinpoints)),
        )


class VideoLlava(FramesEntry, Llava):
    """A tower for images, one for clips; a frame's class token is among its tokens."""

    name = "video_llava"
    traits = Traits(container="tensor", has_cls=True)
    clip_traits: Mapping[str, Any] = {"unit": "frame"}
    architecture = "VideoLlavaForConditionalGeneration"
    pixels = "pixel_values" if RELEASE >= (5, 21) else "pixel_values_images"
    feature_arguments = (pixels,)
    tokens = 16
    frame_tokens = 17

    def config(self) -> PreTrainedConfig:
        return self.made(
            vision_config=clip(16),
            text_config=llama(),
            image_token_index=IMAGE,
            video_token_index=IMAGE - 1,
        )

    def visual_inputs(
        self, model: PreTrainedModel, rows: Sequence[Sequence[Image]]
    ) -> dict[str, Any]:
        return {self.pixels: super().visual_inputs(model, rows)["pixel_values"]}

    def shown(self, inputs: Mapping[str, Any], clips: bool) -> str:
        return "pixel_values_videos" if clips else self.pixels


class LlavaOnevision(FramesEntry, LlavaNext):
    """As LLaVA-NeXT with SigLIP and Qwen2.

    A grid of more than `max_crops` crops is shrunk; images that share a row are not cut at all.
    """

    name = "llava_onevision"
    traits = Traits(container="list", ragged=True, tiles=True)
    clip_traits: Mapping[str, Any] = {"container": "tensor", "ragged": False, "tiles": False}
    architecture = "LlavaOnevisionForConditionalGeneration"
    feature_arguments = (
        "pixel_values",
        "image_sizes",
        "batch_num_images",
    )
    max_crops = 3

    def config(self) -> PreTrainedConfig:
        return self.made(
            vision_config=siglip(self.crop),
            text_config=qwen2(),
            image_token_index=IMAGE,
            video_token_index=IMAGE - 1,
            image_grid_pinpoints=[*map(list, self.pinpoints), [48, 32], [32, 48], [48, 48]],
            vision_aspect_ratio=f"anyres_max_{self.max_crops}",
        )

    def processor(self, model: PreTrainedModel) -> Any:
        processor: Any = object.__new__(LlavaOnevisionProcessor)
        processor.num_image_tokens = 16
        processor.vision_feature_select_strategy = "full"
        processor.vision_aspect_ratio = model.config.vision_aspect_ratio
        processor.image_processor = model.config
        return processor

    def counts(self, model: PreTrainedModel, image: Image, alone: bool = True) -> int:
        if not alone:
            return 17
        height, width = SIZES[image.kind]
        processor = self.processor(model)
        return int(processor._get_number_of_features(height, width, self.crop, self.crop))

    def clip_counts(self, model: PreTrainedModel, clip: Image) -> int:
        return super().clip_counts(model, clip) + 1

    def visual_inputs(
        self, model: PreTrainedModel, rows: Sequence[Sequence[Image]]
    ) -> dict[str, Any]:
        numbers = torch.tensor([len(row) for row in rows])
        return super().visual_inputs(model, rows) | {"batch_num_images": numbers}


class Granite4Vision(LlavaNext):
    """LLaVA-NeXT's crops of 6x6 patches, 3x3 tokens of each by Q-Formers over 2x2 windows.

    No embedding: five planes of features, added before the decoder layers that they name.
    """

    name = "granite4_vision"
    traits = Traits(
        container="planes",
        ragged=True,
        tiles=True,
        deepstack=5,
        upstream=NO_POOLER_OUTPUT | INTERLEAVED,
    )
    architecture = "Granite4VisionForConditionalGeneration"
    crop = 24
    pinpoints = ((24, 48), (48, 24), (48, 48), (72, 24), (24, 72))

    def config(self) -> PreTrainedConfig:
        vision = siglip(self.crop)
        vision.hidden_size = 64
        return self.made(
            vision_config=vision,
            text_config=language(num_hidden_layers=6, attention_multiplier=0.25),
            qformer_config={
                "hidden_size": 64,
                "encoder_hidden_size": 64,
                "num_attention_heads": 1,
                "num_hidden_layers": 1,
                "intermediate_size": 48,
                "cross_attention_frequency": 1,
                "use_qformer_text_input": False,
            },
            image_token_index=IMAGE,
            image_grid_pinpoints=list(map(list, self.pinpoints)),
            vision_feature_select_strategy="full",
            downsample_rate="1/2",
            deepstack_layer_map=[[1, 0]],
            spatial_vision_layer=-1,
            spatial_target_layers=[1, 2, 3, 4],
        )

    def processor(self, model: PreTrainedModel) -> Any:
        from transformers.models.granite4_vision.processing_granite4_vision import (
            Granite4VisionProcessor,
        )

        processor: Any = object.__new__(Granite4VisionProcessor)
        processor.patch_size = 4
        processor.num_additional_image_tokens = 0
        processor.vision_feature_select_strategy = "full"
        processor.downsample_rate = model.config.downsample_rate
        processor.image_processor = model.config
        return processor

    def counts(self, model: PreTrainedModel, image: Image, alone: bool = True) -> int:
        return super().counts(model, image, alone) + 1
