"""GLM-4V: packed images with M-RoPE, as Qwen-VL's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from vllm.model_executor.models.glm4_1v import (
    Glm4vDummyInputsBuilder,
    Glm4vForConditionalGeneration,
    Glm4vMultiModalProcessor,
    Glm4vProcessingInfo,
)
from vllm.multimodal import MULTIMODAL_REGISTRY

from ..model.encoder_inputs import EncoderInputs
from ..request.mrope_checks import Placing
from ..request.processing import WholeItems
from .qwen import Gridded, Offsets, Patches, offsets_of


class GlmInfo(WholeItems, Glm4vProcessingInfo):
    """Tells the token counts of GLM-4V's images before the reduction."""

    def get_supported_mm_limits(self) -> Mapping[str, int | None]:
        """Return that images are taken: a video's frames have the placeholders of images."""
        return {"image": None}


class GlmProcessor(Placing, Glm4vMultiModalProcessor):
    """Shortens the prompts of requests to GLM-4V."""


@MULTIMODAL_REGISTRY.register_processor(
    GlmProcessor, info=GlmInfo, dummy_inputs=Glm4vDummyInputsBuilder
)
class LftrGlm4vForConditionalGeneration(Gridded, Glm4vForConditionalGeneration):
    """GLM-4V, reduced."""

    inputs_of: ClassVar[Mapping[str, type[EncoderInputs]]] = {"image": Patches}

    def media(self, ids: Sequence[int], features: Sequence[Any]) -> Iterator[tuple[int, Offsets]]:
        """Return the first token of each image, and the offsets of its whole grid."""
        side = self.visual.spatial_merge_size
        for one in sorted(features, key=lambda feature: feature.mm_position.offset):
            t, h, w = one.data["image_grid_thw"].data.tolist()
            yield one.mm_position.offset, offsets_of(t, h // side, w // side, 1)
