"""Qwen3.5: layers with linear attention between those with full attention; no DeepStack."""

from __future__ import annotations

from vllm.model_executor.models.qwen3_5 import (
    Qwen3_5ForConditionalGeneration,
    Qwen3_5MoeForConditionalGeneration,
    Qwen3_5MoeProcessingInfo,
    Qwen3_5ProcessingInfo,
)
from vllm.model_executor.models.qwen3_vl import Qwen3VLDummyInputsBuilder
from vllm.multimodal import MULTIMODAL_REGISTRY

from .qwen3 import Planed, Qwen3Processor


@MULTIMODAL_REGISTRY.register_processor(
    Qwen3Processor, info=Qwen3_5ProcessingInfo, dummy_inputs=Qwen3VLDummyInputsBuilder
)
class LftrQwen3_5ForConditionalGeneration(Planed, Qwen3_5ForConditionalGeneration):
    """Qwen3.5, reduced."""


@MULTIMODAL_REGISTRY.register_processor(
    Qwen3Processor, info=Qwen3_5MoeProcessingInfo, dummy_inputs=Qwen3VLDummyInputsBuilder
)
class LftrQwen3_5MoeForConditionalGeneration(Planed, Qwen3_5MoeForConditionalGeneration):
    """Qwen3.5 with experts, reduced."""
