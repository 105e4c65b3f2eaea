"""Find the transformers model inside a wrapper (PEFT, DDP, torch.compile), or say why not."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from ...values.errors import ArgumentError, UnsupportedModelError

# The attribute with the wrapped model, by the wrapper's class. Each wrapper calls the model through
# its __call__, so hooks on the model see every call.
_INSIDE = {
    "OptimizedModule": "_orig_mod",  # torch.compile(model)
    "DistributedDataParallel": "module",
    "FullyShardedDataParallel": "module",
    "DeepSpeedEngine": "module",
}
_REFUSED = {
    "DataParallel": "it runs copies of the model in threads, which a reduction of the model does "
    "not reach; use DistributedDataParallel",
    "Pipeline": "it is not a model; reduce pipeline.model, which the pipeline calls",
}


def unwrapped(model: Any) -> Any:
    """Return the transformers model inside the wrappers of PEFT, accelerate, DDP and others.

    Raises
    ------
    ArgumentError
        If ``model`` is an unknown wrapper around a transformers model.
    UnsupportedModelError
        If a model inside this wrapper cannot be reduced.
    """
    while (inner := _inside(model)) is not None:
        model = inner
    parameter = next(model.parameters(), None) if isinstance(model, nn.Module) else None
    if hasattr(parameter, "ds_id"):
        raise UnsupportedModelError(
            "DeepSpeed's ZeRO stage 3 has partitioned this model's parameters, and they are not "
            "present when images are encoded; use stage 1 or 2, or FSDP"
        )
    return model


def _inside(model: Any) -> Any:
    """Return what ``model`` wraps, or None if it is no wrapper."""
    names = {kind.__name__ for kind in type(model).__mro__}
    for name in names & _REFUSED.keys():
        raise UnsupportedModelError(f"model = {type(model).__name__}: {_REFUSED[name]}")
    for name in names & _INSIDE.keys():
        return getattr(model, _INSIDE[name])
    if hasattr(model, "peft_config") and hasattr(model, "get_base_model"):
        learned = [str(c.peft_type) for c in model.peft_config.values() if c.is_prompt_learning]
        if learned:
            raise UnsupportedModelError(
                f"model = {type(model).__name__} with {', '.join(learned)}: it puts learned "
                "tokens before the prompt and passes embeddings, which cannot be reduced; adapters "
                "that change weights, such as LoRA, can"
            )
        return model.get_base_model()
    if isinstance(model, nn.Module) and not isinstance(model, PreTrainedModel):
        for name, part in model.named_modules():
            if isinstance(part, PreTrainedModel) and hasattr(part, "generate"):
                held = f"the model in it, {type(part).__name__}: .{name}"
                raise ArgumentError.of("model", type(model).__name__, held)
    return None


def precision_of(model: Any) -> AbstractContextManager[Any]:
    """Return the autocast context of a model that accelerate prepared, else an empty context.

    Code that runs before the forward must compute in the same precision.
    """
    if not hasattr(model, "_original_forward"):
        return nullcontext()
    from accelerate.utils import get_mixed_precision_context_manager

    autocast: AbstractContextManager[Any] = get_mixed_precision_context_manager(native_amp=True)
    return autocast
