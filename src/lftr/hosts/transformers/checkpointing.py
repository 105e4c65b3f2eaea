"""Gradient checkpointing: layers that run again in the backward pass, when no hook is left."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from ...errors import UnsupportedModelError
from .api import CHECKPOINTED


@contextmanager
def run_once(layers: Iterable[nn.Module]) -> Iterator[None]:
    """Let layers keep what their backward pass needs, while the body runs, and not run again.

    For layers with hooks inside them, which the second run would miss, or whose cache takes part.

    Raises
    ------
    UnsupportedModelError
        If a layer was wrapped so that it always runs again.
    """
    layers = list(layers)
    for layer in layers:
        if layer.training and hasattr(layer, "_checkpoint_wrapped_module"):
            raise UnsupportedModelError(
                f"{type(layer).__name__} runs the layer in it again in the backward pass, without "
                "what lftr does inside; use model.gradient_checkpointing_enable() instead"
            )
    own: list[dict[str, Any]] = [vars(layer) for layer in layers]
    before = [(one, one[CHECKPOINTED]) for one in own if CHECKPOINTED in one]
    for one, _ in before:
        one[CHECKPOINTED] = False
    try:
        yield
    finally:
        for one, value in before:
            one[CHECKPOINTED] = value
