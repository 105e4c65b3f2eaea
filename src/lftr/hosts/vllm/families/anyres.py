"""LLaVA-NeXT and LLaVA-OneVision: a base view and tiles, with a newline after each row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import groupby
from types import SimpleNamespace
from typing import Any, ClassVar, Self

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

from ...transformers.families.anyres import LlavaNext as Family
from ...transformers.families.clips import OnevisionClips
from ..model.encoder_inputs import EncoderInputs
from ..request.mrope_checks import Counting
from ..request.processing import WholeItems
from .llava import NEWER_NAMES, SquareTower


class NextInfo(WholeItems, LlavaNextProcessingInfo):
    """Sizes of LLaVA-NeXT's images."""


class NextProcessor(Counting, LlavaNextMultiModalProcessor):
    """LLaVA-NeXT's requests."""


class OnevisionInfo(WholeItems, LlavaOnevisionProcessingInfo):
    """Sizes of LLaVA-OneVision's images."""


class OnevisionProcessor(Counting, LlavaOnevisionMultiModalProcessor):
    """LLaVA-OneVision's requests."""


class Tiles(EncoderInputs):
    """Images as tiles; the model's own rule joins features and evidence of the tiles."""

    medium: Family

    @cached_property
    def sizes(self) -> list[int]:
        """Number of tokens of each image, newlines included."""
        vision = self.model.config.vision_config
        patches = (vision.image_size // vision.patch_size) ** 2
        views = [torch.ones(len(tiles), patches, 1) for tiles in self.inputs["pixel_values"]]
        return [len(tokens) for tokens in self.medium.pack(self.model, self.inputs, views)]

    def to_tokens(self, patches: Tensor) -> list[Tensor]:
        """Join maps over tiles as the model joins features."""
        return self.medium.pack(self.model, self.inputs, self.by_item(patches))

    def by_item(self, views: Tensor) -> list[Tensor]:
        """Split values of tiles by images, without tiles that only pad a batch."""
        split = views.split([len(tiles) for tiles in self.inputs["pixel_values"]])
        real = self.medium.tiles_of(self.model, self.inputs)
        return [one[:count] for one, count in zip(split, real, strict=True)]


class OnevisionVideos(EncoderInputs):
    """Videos, each frame a square that is shrunk, with a newline at the end."""

    medium: OnevisionClips

    @cached_property
    def sizes(self) -> list[int]:
        """Number of tokens of all frames, and the newline."""
        vision = self.model.config.vision_config
        patches = (vision.image_size // vision.patch_size) ** 2
        frame = self.medium.pool(self.model, torch.ones(1, patches, 1)).shape[1]
        closing = self.medium.closing
        return [len(clip) * frame + closing for clip in self.inputs["pixel_values_videos"]]

    def portions(self, most: int) -> Iterator[Self]:
        """Yield portions of at most ``most`` tokens, of neighbours with as many frames."""
        start = 0
        for _, alike in groupby(self.sizes):
            stop = start + len(list(alike))
            yield from EncoderInputs.portions(self.part(start, stop), most)
            start = stop

    def part(self, start: int, stop: int) -> Self:
        """Return clips ``start`` to ``stop``, of one length; vLLM passes those of several apart."""
        clips = self.inputs["pixel_values_videos"][start:stop]
        stacked = clips if isinstance(clips, Tensor) else torch.stack(clips)
        return replace(self, inputs={"pixel_values_videos": stacked})


@MULTIMODAL_REGISTRY.register_processor(
    NextProcessor, info=NextInfo, dummy_inputs=LlavaDummyInputsBuilder
)
class LftrLlavaNextForConditionalGeneration(SquareTower, LlavaNextForConditionalGeneration):
    """LLaVA-NeXT, reduced."""

    inputs_of: ClassVar[Mapping[str, type[EncoderInputs]]] = {"image": Tiles}
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
class LftrLlavaOnevisionForConditionalGeneration(
    SquareTower, LlavaOnevisionForConditionalGeneration
):
    """LLaVA-OneVision, reduced."""

    inputs_of: ClassVar[Mapping[str, type[EncoderInputs]]] = {
        "image": Tiles,
        "video": OnevisionVideos,
    }
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
