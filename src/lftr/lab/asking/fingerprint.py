"""Digests that tell a loaded model from another one of the same name, within a second."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

_SAMPLES = 4096  # values of each tensor, evenly spread: training moves all of them
_TEXT = "How many red squares stand left of the 2 grey lines? Yes, no; 1/16."


def weights_of(module: nn.Module) -> str:
    """Return a digest of every parameter and buffer: name, kind, shape, dtype and some values."""
    total = hashlib.sha256()
    for name, whole in (*module.named_parameters(), *module.named_buffers()):
        for part in _parts(whole):
            kind = [name, type(whole).__name__, list(part.shape), str(part.dtype)]
            total.update(json.dumps(kind).encode())
            if not part.is_meta:  # what accelerate keeps elsewhere
                total.update(_sample_bytes(part))
    return total.hexdigest()


def config_of(model: Any) -> str:
    """Return a digest of a model's configuration, generation settings and attention."""
    from ...hosts.transformers.api import attention_of

    config = model.config.to_dict()
    config.pop("_name_or_path", None)
    kernels = {
        f"{type(module).__name__}: {attention_of(module.config)}"
        for module in model.modules()
        if hasattr(module, "config")
    }
    return _digest([config, model.generation_config.to_dict(), sorted(kernels)])


def processor_of(processor: Any) -> str:
    """Return a digest of a processor: image sizes, chat template, tokens of a sample text."""
    tokenizer = processor.tokenizer
    return _digest(
        [
            processor.to_dict(),
            getattr(processor, "chat_template", None),
            getattr(tokenizer, "chat_template", None),
            len(tokenizer),
            tokenizer.special_tokens_map,
            tokenizer.padding_side,
            tokenizer(_TEXT)["input_ids"],
        ]
    )


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def _parts(tensor: Tensor) -> Iterator[Tensor]:
    """Yield a tensor, or the tensors inside one of another class (quantised, sharded)."""
    if not hasattr(tensor, "__tensor_flatten__"):
        yield tensor.detach()
        return
    for name in tensor.__tensor_flatten__()[0]:
        yield from _parts(getattr(tensor, name))


def _sample_bytes(tensor: Tensor) -> bytes:
    values = tensor.reshape(-1)
    taken = values[:: max(1, len(values) // _SAMPLES)].cpu().contiguous()
    return taken.view(torch.uint8).numpy().tobytes()
