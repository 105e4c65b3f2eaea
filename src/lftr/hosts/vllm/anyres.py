"""LLaVA-NeXT and LLaVA-OneVision: a base view and tiles, with a newline after each row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from vllm.model_executor.models.llava import LlavaDummyInputsBuilder
from vllm.model_executor.models.llava_next import (
    LlavaNextForConditionalGeneration,
    LlavaNextMultiModalProcessor,
    LlavaNextProcessingInfo,
)
from vllm.model_executor.models.llava_onevision import (
    LlavaOnevisionDummyInputsBuilder,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionMultiModalProcessor,
    LlavaOnevisionProcessingInfo,
)
from vllm.multimodal import MULTIMODAL_REGISTRY

from ..transformers.families.anyres import LlavaNext as Family
from .llava import NEWER_NAMES, SquareTower
from .processing import Shortening, WholeItems


class NextInfo(WholeItems, LlavaNextProcessingInfo):
    """Sizes of LLaVA-NeXT's images."""


class NextProcessor(Shortening, LlavaNextMultiModalProcessor):
    """LLaVA-NeXT's requests."""


class OnevisionInfo(WholeItems, LlavaOnevisionProcessingInfo):
    """Sizes of LLaVA-OneVision's images."""


class OnevisionProcessor(Shortening, LlavaOnevisionMultiModalProcessor):
    """LLaVA-OneVision's requests."""


class Tiled(SquareTower):
    """Images as tiles, put together by the model's own rule; so is what was read of the tiles."""

    family: Family

    def items(self, inputs: Mapping[str, Any]) -> list[int]:
        """Return the tokens of each image, newlines included."""
        vision = self.config.vision_config
        patches = (vision.image_size // vision.patch_size) ** 2
        views = [torch.ones(len(tiles), patches, 1) for tiles in inputs["pixel_values"]]
        return [len(tokens) for tokens in self.family.pack(self, inputs, views)]

    def to_tokens(self, inputs: Mapping[str, Any], patches: Tensor) -> list[Tensor]:
        """Put maps of tiles together as the model does features."""
        return self.family.pack(self, inputs, self.by_image(inputs, patches))

    def by_image(self, inputs: Mapping[str, Any], tiles: Tensor) -> list[Tensor]:
        """Cut what there is of each tile into images, without tiles that only pad a batch."""
        given = tiles.split([len(one) for one in inputs["pixel_values"]])
        real = self.family.tiles_of(self, inputs)
        return [one[:count] for one, count in zip(given, real, strict=True)]


@MULTIMODAL_REGISTRY.register_processor(
    NextProcessor, info=NextInfo, dummy_inputs=LlavaDummyInputsBuilder
)
class LftrLlavaNextForConditionalGeneration(Tiled, LlavaNextForConditionalGeneration):
    """LLaVA-NeXT, reduced."""

    model_type = "llava_next"
    hf_to_vllm_mapper = LlavaNextForConditionalGeneration.hf_to_vllm_mapper | NEWER_NAMES

    def pack_image_features(
        self, views: Sequence[Tensor], sizes: Sequence[Any], *, image_newline: Tensor, **_: Any
    ) -> tuple[list[Tensor], None]:
        """Do what transformers' function of that name does, by vLLM's rule."""
        stand_in = SimpleNamespace(config=self.config, image_newline=image_newline)
        merge = LlavaNextForConditionalGeneration._merge_image_patch_embeddings
        pairs = zip(sizes, views, strict=True)
        return [merge(stand_in, size, one, strategy="spatial_unpad") for size, one in pairs], None


@MULTIMODAL_REGISTRY.register_processor(
    OnevisionProcessor, info=OnevisionInfo, dummy_inputs=LlavaOnevisionDummyInputsBuilder
)
class LftrLlavaOnevisionForConditionalGeneration(Tiled, LlavaOnevisionForConditionalGeneration):
    """LLaVA-OneVision, images reduced; videos stay whole."""

    model_type = "llava_onevision"
    hf_to_vllm_mapper = LlavaOnevisionForConditionalGeneration.hf_to_vllm_mapper | NEWER_NAMES

    def pack_image_features(
        self, views: Sequence[Tensor], sizes: Sequence[Any], *, image_newline: Tensor, **_: Any
    ) -> tuple[list[Tensor], None]:
        """Do what transformers' function of that name does, by vLLM's rule."""
        pairs = zip(sizes, views, strict=True)
        packed = [
            self._merge_image_patch_embeddings(
                size, one, image_newline=image_newline, strategy="spatial_unpad"
            )
            for size, one in pairs
        ]
        return packed, None
