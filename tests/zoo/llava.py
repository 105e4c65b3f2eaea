"""LLaVA and its relatives: CLIP or SigLIP tower, MLP projector, Llama or Qwen2."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextVideoConfig,
    LlavaNextVideoForConditionalGeneration,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    SiglipVisionConfig,
    VideoLlavaConfig,
    VideoLlavaForConditionalGeneration,
    VipLlavaConfig,
    VipLlavaForConditionalGeneration,
)
from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches
from transformers.models.llava_next.processing_llava_next import LlavaNextProcessor
from transformers.models.llava_onevision.processing_llava_onevision import (
    LlavaOnevisionProcessor,
)

from .base import RELEASE, VOCAB, Image, Kind, Traits, VideoEntry, ZooEntry, flat, pixels

IMAGE = VOCAB - 1


def clip(image_size: int, layers: int = 3) -> CLIPVisionConfig:
    return CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=layers,
        num_attention_heads=2,
        image_size=image_size,
        patch_size=4,
        projection_dim=16,
    )


def siglip(image_size: int, layers: int = 3) -> SiglipVisionConfig:
    return SiglipVisionConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=layers,
        num_attention_heads=2,
        image_size=image_size,
        patch_size=4,
        vision_use_head=False,
    )


def llama(layers: int = 3) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=48,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        pad_token_id=0,
    )


def qwen2(layers: int = 3) -> Qwen2Config:
    return Qwen2Config(
        vocab_size=VOCAB,
        hidden_size=48,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        pad_token_id=0,
    )


class Llava(ZooEntry):
    name = "llava"
    traits = Traits(container="list", has_cls=True)
    model_class = LlavaForConditionalGeneration

    def config(self) -> PreTrainedConfig:
        return LlavaConfig(
            vision_config=clip(24),
            text_config=llama(),
            image_token_index=IMAGE,
            image_seq_length=36,
        )

    def counts(self, model: PreTrainedModel, image: Image, alone: bool = True) -> int:
        return 36

    def visual_inputs(
        self, model: PreTrainedModel, rows: Sequence[Sequence[Image]]
    ) -> dict[str, Any]:
        return {"pixel_values": torch.stack([pixels(image, 3, 24, 24) for image in flat(rows)])}


class VipLlava(Llava):
    """Five vision layers, concatenated; the class token is dropped after that."""

    name = "vipllava"
    traits = Traits(container="tensor", has_cls=True)
    model_class = VipLlavaForConditionalGeneration
    feature_layer = "vision_feature_layer" if RELEASE >= (5, 23) else "vision_feature_layers"

    def config(self) -> PreTrainedConfig:
        return VipLlavaConfig(
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
    model_class = LlavaNextForConditionalGeneration
    feature_arguments: tuple[str, ...] = ("pixel_values", "image_sizes")
    crop = 16
    pinpoints: tuple[tuple[int, int], ...] = ((16, 32), (32, 16), (32, 32), (48, 16), (16, 48))

    def config(self) -> PreTrainedConfig:
        return LlavaNextConfig(
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


class FramesEntry(VideoEntry):
    """Clips of three frames, each encoded as one square."""

    frames = 3
    frame_tokens = 4

    def clip_counts(self, model: PreTrainedModel, clip: Image) -> int:
        return self.frames * self.frame_tokens

    def clip_inputs(
        self, model: PreTrainedModel, rows: Sequence[Sequence[Image]]
    ) -> dict[str, Any]:
        side = model.config.vision_config.image_size
        values = [pixels(clip, self.frames, 3, side, side, part="clip") for clip in flat(rows)]
        return {"pixel_values_videos": torch.stack(values)}


class LlavaNextVideo(FramesEntry, LlavaNext):
    """Frames pooled two by two before the projector."""

    name = "llava_next_video"
    video_traits = Traits(container="tensor", has_cls=True)
    takes_clips = RELEASE >= (5, 20)  # lftr refuses the lists of frames that came before
    model_class = LlavaNextVideoForConditionalGeneration

    def config(self) -> PreTrainedConfig:
        return LlavaNextVideoConfig(
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
    video_traits = Traits(container="tensor", unit="frame", has_cls=True)
    model_class = VideoLlavaForConditionalGeneration
    pixels = "pixel_values" if RELEASE >= (5, 21) else "pixel_values_images"
    feature_arguments = (pixels,)
    frame_tokens = 17

    def config(self) -> PreTrainedConfig:
        return VideoLlavaConfig(
            vision_config=clip(16),
            text_config=llama(),
            image_token_index=IMAGE,
            video_token_index=IMAGE - 1,
        )

    def counts(self, model: PreTrainedModel, image: Image, alone: bool = True) -> int:
        return 16

    def visual_inputs(
        self, model: PreTrainedModel, rows: Sequence[Sequence[Image]]
    ) -> dict[str, Any]:
        return {self.pixels: torch.stack([pixels(image, 3, 16, 16) for image in flat(rows)])}


class LlavaOnevision(FramesEntry, LlavaNext):
    """As LLaVA-NeXT with SigLIP and Qwen2.

    A grid of more than `max_crops` crops is shrunk; images that share a row are not cut at all.
    """

    name = "llava_onevision"
    traits = Traits(container="list", ragged=True, tiles=True)
    video_traits = Traits(container="tensor")
    model_class = LlavaOnevisionForConditionalGeneration
    feature_arguments = (
        "pixel_values",
        "image_sizes",
        "batch_num_images",
    )
    max_crops = 3

    def config(self) -> PreTrainedConfig:
        return LlavaOnevisionConfig(
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
