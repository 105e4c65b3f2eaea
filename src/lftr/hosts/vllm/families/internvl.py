"""InternVL: the tiles of an image, and a thumbnail, in one run of placeholders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import accumulate
from typing import ClassVar, Self

from torch import Tensor
from vllm.model_executor.models.interns1 import (
    InternS1DummyInputsBuilder,
    InternS1ForConditionalGeneration,
    InternS1MultiModalProcessor,
    InternS1ProcessingInfo,
)
from vllm.multimodal import MULTIMODAL_REGISTRY

from ...layout import Layout
from ..model.encoder_inputs import EncoderInputs
from ..model.gaps import Gapped
from ..request.mrope_checks import Counting
from ..request.processing import WholeItems


class InternVLInfo(WholeItems, InternS1ProcessingInfo):
    """Tells the token counts of InternVL's images before the reduction."""

    def get_supported_mm_limits(self) -> Mapping[str, int | None]:
        """Return that images are taken; frames of videos are sent as such."""
        return {"image": None}


class InternVLProcessor(Counting, InternS1MultiModalProcessor):
    """Shortens the prompts of requests to InternVL."""

    def with_item_marks(self, prompt: Sequence[int]) -> Sequence[int]:
        """Return a prompt's ids with marks around images, which the configuration does not name."""
        processor, token = self.info.get_hf_processor(), self.info.get_hf_config().image_token_id
        marks = [processor.start_image_token, processor.end_image_token]
        begin, end = self.info.get_tokenizer().convert_tokens_to_ids(marks)
        items = ([begin, one, end] if one == token else [one] for one in prompt)
        return [one for item in items for one in item]


class InternVLTiles(EncoderInputs):
    """Images as tiles of equal squares, all in one batch."""

    @cached_property
    def counts(self) -> list[int]:
        """Number of tiles of each image."""
        return [int(count) for count in self.inputs["image_num_patches"]]

    @property
    def sizes(self) -> list[int]:
        """Number of tokens of all tiles."""
        return [count * self.model.num_image_token for count in self.counts]

    def part(self, start: int, stop: int) -> Self:
        """Return items ``start`` to ``stop`` and their tiles."""
        ends = list(accumulate(self.counts, initial=0))
        tiles = {
            "pixel_values": self.inputs["pixel_values"][ends[start] : ends[stop]],
            "image_num_patches": self.inputs["image_num_patches"][start:stop],
        }
        return replace(self, inputs={**self.inputs, **tiles})

    def layouts(self) -> list[Layout]:
        """Return each image's tiles."""
        tile = Layout.square(self.model.num_image_token).tiles
        return [Layout(None if tile is None else tile * count) for count in self.counts]

    def by_item(self, views: Tensor) -> list[Tensor]:
        """Split values of tiles by images."""
        return list(views.split(self.counts))


@MULTIMODAL_REGISTRY.register_processor(
    InternVLProcessor, info=InternVLInfo, dummy_inputs=InternS1DummyInputsBuilder
)
class LftrInternVLForConditionalGeneration(Gapped, InternS1ForConditionalGeneration):
    """InternVL, reduced."""

    tower = "vision_tower"
    inputs_of: ClassVar[Mapping[str, type[EncoderInputs]]] = {"image": InternVLTiles}
