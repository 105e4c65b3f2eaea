"""What people wrap a model in: the one place that looks through it, or says why it cannot."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from ...errors import ArgumentError, UnsupportedModelError

# Where a wrapper has what it wraps, by the name of its class. Each calls that through its own
# __call__, so that hooks on the model inside see every call.
_INSIDE = {
    "OptimizedModule": "_orig_mod",  # torch.compile(model)
    "DistributedDataParallel": "module",
    "FullyShardedDataParallel": "module",
    "DeepSpeedEngine": "module",
}
_REFUSED = {
    "DataParallel": "it runs copies of the model in threads, which a reduction of the model does "
    "not reach; use DistributedDataParallel",
    "Pipeline": "it is no model; reduce pipeline.model, and the pipeline is reduced",
}


def unwrapped(model: Any) -> Any:
    """Return the transformers model inside of what PEFT, accelerate, DDP and others made of it.

    Raises
    ------
    ArgumentError
        If it is no module, or a wrapper that is not known.
    UnsupportedModelError
        If it is wrapped in what cannot be reduced.
    """
    while (inner := _inside(model)) is not None:
        model = inner
    parameter = next(model.parameters(), None) if isinstance(model, nn.Module) else None
    if hasattr(parameter, "ds_id"):
        raise UnsupportedModelError(
            "DeepSpeed's ZeRO stage 3 has taken this model's parameters apart, and they are not "
            "there when images are encoded; use stage 1 or 2, or FSDP"
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
                f"model = {type(model).__name__} with {', '.join(learned)}: learned tokens stand "
                "in front of a prompt of embeddings, which cannot be reduced; LoRA and others that "
                "change weights can"
            )
        return model.get_base_model()
    if isinstance(model, nn.Module) and not isinstance(model, PreTrainedModel):
        for name, part in model.named_modules():
            if isinstance(part, PreTrainedModel) and hasattr(part, "generate"):
                held = f"the model in it, {type(part).__name__}: .{name}"
                raise ArgumentError.of("model", type(model).__name__, held)
    return None


def precision_of(model: Any) -> AbstractContextManager[Any]:
    """Return the autocast that accelerate has put into this model's forward, or none.

    What runs in front of the forward is to compute in the same precision.
    """
    if not hasattr(model, "_original_forward"):
        return nullcontext()
    from accelerate.utils import get_mixed_precision_context_manager

    found: AbstractContextManager[Any] = get_mixed_precision_context_manager(native_amp=True)
    return found
