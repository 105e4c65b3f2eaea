"""What the encoder does in one step, counted in the tokens that it makes and not in those kept."""

from __future__ import annotations

from typing import Any

from vllm.logger import init_logger
from vllm.v1.core.encoder_cache_manager import EncoderCacheManager

from .request.request_setting import size_field_of

logger = init_logger("vllm.lftr")


class FullTokens(EncoderCacheManager):
    """vLLM's manager of encoder outputs, which also bounds a step by the items' whole sizes.

    vLLM schedules encoder inputs until their placeholders reach a budget, with which it has also
    measured the encoder's memory. Placeholders of reduced items are few, so that a step would
    encode many times more. The scheduler asks its manager before each item; this one allows the
    first item of a step, and others as long as the step stays within the budget.

    `configuration` names the class to vLLM. It is given items by the engine; with
    ``--mm-processor-cache-type shm`` the engine does not have them, and placeholders are counted.
    """

    @classmethod
    def create_manager(cls, *, cache_size: int, vllm_config: Any) -> FullTokens:
        """Return the manager of an engine."""
        manager = cls(cache_size)
        manager.most = int(vllm_config.scheduler_config.max_num_encoder_input_tokens)
        if vllm_config.model_config.multimodal_config.mm_processor_cache_type == "shm":
            logger.warning(
                "lftr: with mm_processor_cache_type = 'shm' the encoder's work in one step is "
                "bounded by kept tokens, not by all tokens of the items"
            )
        return manager

    def __init__(self, cache_size: int) -> None:
        super().__init__(cache_size)
        self.most = 0
        self.scheduled = 0  # tokens of this step's items
        self.requested = 0  # of the items that the current request was allowed

    def can_allocate(
        self,
        request: Any,
        input_id: int,
        encoder_compute_budget: int,
        num_embeds_to_schedule: int,
    ) -> bool:
        """Return whether an item can be encoded in this step."""
        if num_embeds_to_schedule == 0:  # the first item of a request
            self.requested = 0
        size, before = full_size(request, input_id), self.scheduled + self.requested
        if before and before + size > self.most:
            return False
        allowed: bool = super().can_allocate(
            request, input_id, encoder_compute_budget, num_embeds_to_schedule
        )
        if allowed:
            self.requested += size
        return allowed

    def allocate(self, request: Any, input_id: int) -> None:
        """Count an item that is encoded in this step."""
        super().allocate(request, input_id)
        self.scheduled += full_size(request, input_id)
        self.requested = 0

    def get_freed_mm_hashes(self) -> list[str]:
        """Return what was evicted; the scheduler calls this once, at the end of a step."""
        self.scheduled = self.requested = 0
        hashes: list[str] = super().get_freed_mm_hashes()
        return hashes


def full_size(request: Any, input_id: int) -> int:
    """Return how many tokens an item has before reduction, or its placeholders if unknown."""
    feature = request.mm_features[input_id]
    size = (feature.data or {}).get(size_field_of(feature.modality))
    return int(request.get_num_encoder_embeds(input_id) if size is None else size.data)
