"""Switch off gradient checkpointing, which runs layers again when lftr's hooks are gone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from ...values.errors import UnsupportedModelError
from .api import CHECKPOINTED


@contextmanager
def run_once(layers: Iterable[nn.Module]) -> Iterator[None]:
    """Switch gradient checkpointing off for ``layers`` while the body runs.

    Needed if hooks work inside the layers, which the second run would miss, or if the forward
    fills their cache.

    Raises
    ------
    UnsupportedModelError
        If a layer is wrapped so that its backward pass always runs it again.
    """
    layers = list(layers)
    for layer in layers:
        if layer.training and hasattr(layer, "_checkpoint_wrapped_module"):
            raise UnsupportedModelError(
                f"{type(layer).__name__} runs its layer again in the backward pass, where "
                "lftr's hooks are lost; use model.gradient_checkpointing_enable() instead"
            )
    attributes: list[dict[str, Any]] = [vars(layer) for layer in layers]
    # in evaluation layers run once anyway, and other threads may be reading the attribute
    before = [(one, True) for one in attributes if one["training"] and one.get(CHECKPOINTED)]
    for one, _ in before:
        one[CHECKPOINTED] = False
    try:
        yield
    finally:
        for one, value in before:
            one[CHECKPOINTED] = value
