"""LLaVA with a CLIP or a SigLIP tower."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from vllm.model_executor.models.llava import (
    LlavaDummyInputsBuilder,
    LlavaForConditionalGeneration,
    LlavaMultiModalProcessor,
    LlavaProcessingInfo,
)
from vllm.model_executor.models.utils import WeightsMapper
from vllm.multimodal import MULTIMODAL_REGISTRY

from ..model.encoder_inputs import EncoderInputs
from ..model.gaps import Gapped
from ..request.mrope_checks import Counting
from ..request.processing import WholeItems

PARTS = ("embeddings", "pre_layrnorm", "encoder", "post_layernorm")
NEWER_NAMES = WeightsMapper(
    orig_to_new_prefix={
        f"vision_tower.{one}.": f"vision_tower.vision_model.{one}." for one in PARTS
    }
)
"""The names of the tower's weights as transformers 5 saves them, which vLLM does not know."""


class LlavaInfo(WholeItems, LlavaProcessingInfo):
    """Sizes of LLaVA's images."""


class LlavaProcessor(Counting, LlavaMultiModalProcessor):
    """LLaVA's requests."""


class Squares(EncoderInputs):
    """Images that the encoder turns into one square of patches each."""

    @property
    def sizes(self) -> list[int]:
        """A token for each patch."""
        vision = self.model.config.vision_config
        return [(vision.image_size // vision.patch_size) ** 2] * len(self.inputs["pixel_values"])


class SquareTower(Gapped):
    """A tower of equal squares, which vLLM loads up to the layer whose output is used."""

    tower = "vision_tower"
    inputs_of: ClassVar[Mapping[str, type[EncoderInputs]]] = {"image": Squares}

    def encoder_depth(self, layers: int) -> int:
        """Return the depth of the whole tower."""
        return int(self.config.vision_config.num_hidden_layers)


@MULTIMODAL_REGISTRY.register_processor(
    LlavaProcessor, info=LlavaInfo, dummy_inputs=LlavaDummyInputsBuilder
)
class LftrLlavaForConditionalGeneration(SquareTower, LlavaForConditionalGeneration):
    """LLaVA, reduced."""

    hf_to_vllm_mapper = LlavaForConditionalGeneration.hf_to_vllm_mapper | NEWER_NAMES
