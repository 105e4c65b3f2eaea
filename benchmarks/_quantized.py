"""Post-training quantization of a model's linear layers by torchao, and what weights weigh."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn

from lftr.values.errors import MissingExtraError

KINDS = {
    "int8 weights": "Int8WeightOnlyConfig",
    "int8 dynamic": "Int8DynamicActivationInt8WeightConfig",
}


def quantized(model: nn.Module, kind: str) -> nn.Module:
    """Return a copy of a model, every linear layer quantized, the vision encoder's too.

    Parameters
    ----------
    kind : {"int8 weights", "int8 dynamic"}
        Weights alone; or activations too, each token at its own scale.

    Raises
    ------
    MissingExtraError
        Without torchao.
    """
    try:
        from torchao import quantization
    except ImportError:
        raise MissingExtraError.of("torchao", "quant") from None
    changed = copy.deepcopy(model)
    quantization.quantize_(changed, getattr(quantization, KINDS[kind])())
    return changed


def weights_mib(model: nn.Module) -> float:
    """Return the memory of a model's parameters and buffers, those it shares counted once."""
    every = {id(t): t for t in (*model.parameters(), *model.buffers())}
    return sum(map(_size, every.values())) / 2**20


def _size(tensor: Any) -> int:
    """Return the bytes of a tensor, or of the plain ones that a quantized one is made of."""
    if hasattr(tensor, "__tensor_flatten__"):
        names, _ = tensor.__tensor_flatten__()
        return sum(_size(getattr(tensor, name)) for name in names)
    assert isinstance(tensor, Tensor)
    return tensor.nbytes
