"""List what a reduction could leave on a model, and all tensors of an output."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor


def traces(model: Any) -> dict[str, Any]:
    """Return the attributes and hooks of each module, and methods overridden on the instance."""
    traced: dict[str, Any] = {}
    for name, module in model.named_modules():
        values = vars(module)
        hooks = {key: tuple(values[key].values()) for key in values if key.endswith("_hooks")}
        methods = {key: value for key, value in values.items() if callable(value)}
        traced[name] = (sorted(values), hooks, methods)
    return traced


def tensors(value: Any, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield every tensor in an output with its path, at any depth and in caches too."""
    if isinstance(value, Tensor):
        yield path, value
    elif isinstance(value, Mapping):
        for name, part in value.items():
            yield from tensors(part, f"{path}.{name}")
    elif isinstance(value, (list, tuple)):
        for number, part in enumerate(value):
            yield from tensors(part, f"{path}.{number}")
    elif hasattr(value, "layers"):
        for number, layer in enumerate(value.layers):
            yield from tensors(vars(layer), f"{path}.{number}")
