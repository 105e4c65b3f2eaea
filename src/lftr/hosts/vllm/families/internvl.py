"""InternVL: the tiles of an image, and a thumbnail, in one run of placeholders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from vllm.model_executor.models.interns1 import (
    InternS1DummyInputsBuilder,
    InternS1ForConditionalGeneration,
    InternS1MultiModalProcessor,
    InternS1ProcessingInfo,
)
from vllm.multimodal import MULTIMODAL_REGISTRY

from ..model.encoder_inputs import EncoderInputs
from ..model.gaps import Gapped
from ..request.mrope_checks import Counting
from ..request.processing import WholeItems
from .square_tiles import SquareTiles


class InternVLInfo(WholeItems, InternS1ProcessingInfo):
    """Tells the token counts of InternVL's images before the reduction."""

    def get_supported_mm_limits(self) -> Mapping[str, int | None]:
        """Return that images are taken; frames of videos are sent as such."""
        return {"image": None}


class InternVLProcessor(Counting, InternS1MultiModalProcessor):
    """Shortens the prompts of requests to InternVL."""

    def with_item_marks(self, inputs: Any) -> Sequence[int]:
        """Return a prompt's ids with marks around images, which the configuration does not name."""
        processor, token = self.info.get_hf_processor(), self.info.get_hf_config().image_token_id
        marks = [processor.start_image_token, processor.end_image_token]
        begin, end = self.info.get_tokenizer().convert_tokens_to_ids(marks)
        items = ([begin, one, end] if one == token else [one] for one in inputs.prompt)
        return [one for item in items for one in item]


class InternVLTiles(SquareTiles):
    """Tiles as InternVL's processor returns them."""

    count_field = "image_num_patches"
    tile_fields = ("pixel_values",)

    @property
    def tile_size(self) -> int:
        """The number that vLLM computes from the configuration."""
        return int(self.model.num_image_token)


@MULTIMODAL_REGISTRY.register_processor(
    InternVLProcessor, info=InternVLInfo, dummy_inputs=InternS1DummyInputsBuilder
)
class LftrInternVLForConditionalGeneration(Gapped, InternS1ForConditionalGeneration):
    """InternVL, reduced."""

    tower = "vision_tower"
    inputs_of: ClassVar[Mapping[str, type[EncoderInputs]]] = {"image": InternVLTiles}
