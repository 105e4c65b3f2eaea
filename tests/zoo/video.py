"""Families that are shown clips where others are shown images, or both by turns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from .base import Corner, Image, Row, VideoEntry, ZooEntry, images_of


class Videos(ZooEntry):
    """A family for which every `Image` says a clip, or only those of odd seeds.

    It shares the family's model, so that whatever is tested with images is tested with clips.
    """

    def __init__(self, family: VideoEntry, *, mixed: bool = False) -> None:
        self.family = family
        self.mixed = mixed
        self.name = family.name
        upstream = {**family.traits.upstream, **family.video_traits.upstream}
        images = replace(family.traits, upstream=upstream)
        self.traits = images if mixed else family.video_traits
        self.architecture = family.architecture
        self.wrap = family.wrap
        self.bos = family.bos
        self.feature_arguments = family.clip_arguments
        self.medium = "image" if mixed else "video"
        self.pixels = "pixel_values" if mixed else "pixel_values_videos"

    def config(self) -> PreTrainedConfig:
        return self.family.config()

    def build(self, seed: int = 0, attn_implementation: str = "sdpa") -> PreTrainedModel:
        return self.family.build(seed, attn_implementation)

    def model(self, attn_implementation: str = "sdpa") -> PreTrainedModel:
        return self.family.model(attn_implementation)

    def is_clip(self, image: Image) -> bool:
        return not self.mixed or image.seed % 2 == 1

    def alone(self, row: Row) -> bool:
        return sum(not self.is_clip(image) for image in images_of(row)) == 1

    def is_visual(self, model: PreTrainedModel, ids: Tensor) -> Tensor:
        return self.family.is_clip(model, ids) | self.family.is_visual(model, ids)

    def counts(self, model: PreTrainedModel, image: Image, alone: bool = True) -> int:
        if self.is_clip(image):
            return self.family.clip_counts(model, image)
        return self.family.counts(model, image, alone)

    def sizes(self, model: PreTrainedModel, image: Image, alone: bool = True) -> list[int]:
        if self.is_clip(image):
            return self.family.clip_sizes(model, image)
        return self.family.sizes(model, image, alone)

    def image_ids(self, model: PreTrainedModel, image: Image, alone: bool = True) -> list[int]:
        if self.is_clip(image):
            return self.family.clip_ids(model, image)
        return self.family.image_ids(model, image, alone)

    def visual_inputs(
        self, model: PreTrainedModel, rows: Sequence[Sequence[Image]]
    ) -> dict[str, Any]:
        clips = [[image for image in row if self.is_clip(image)] for row in rows]
        images = [[image for image in row if not self.is_clip(image)] for row in rows]
        found: dict[str, Any] = {}
        if any(clips):
            found |= self.family.clip_inputs(model, clips)
        if any(images):
            found |= self.family.visual_inputs(model, images)
        return found

    def token_inputs(self, model: PreTrainedModel, ids: Tensor, mask: Tensor) -> dict[str, Any]:
        return self.family.token_inputs(model, ids, mask)

    def painted(
        self, inputs: Mapping[str, Any], corner: Corner, clips: bool = True
    ) -> dict[str, Any]:
        return self.family.painted(inputs, corner, clips)

    def features(self, model: PreTrainedModel, inputs: Mapping[str, Any]) -> Any:
        arguments = {key: inputs[key] for key in self.feature_arguments if key in inputs}
        return self.family.clip_features(model, **arguments)

    def __repr__(self) -> str:
        return f"{self.name}-{'mixed' if self.mixed else 'videos'}"
