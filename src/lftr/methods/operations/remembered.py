"""Cache of tensors that depend on sizes alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
T = TypeVar("T")


def remembered(function: Callable[P, T]) -> Callable[P, T]:
    """Keep the last 64 results of a function of hashable arguments that returns tensors.

    Every caller gets copies, since they become parts of selections, which a user may change in
    place. The cached tensors are made outside inference mode, so that they can be used in training.
    """
    keep = lru_cache(maxsize=64)(torch.inference_mode(False)(function))

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        result: T = _copied(keep(*args, **kwargs))  # type: ignore[arg-type]
        return result

    return call


def _copied(value: Any) -> Any:
    """Return ``value`` with every tensor in its tuples and lists copied."""
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, (tuple, list)):
        return type(value)(map(_copied, value))
    return value
