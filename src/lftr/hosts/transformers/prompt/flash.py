"""FlashAttention and positions with gaps.

Without a mask its kernels read gaps in ``position_ids`` as borders between packed sequences, and a
mask of ones is no mask to them. Decoder layers place their tokens by other arguments, so under
FlashAttention they are called without ``position_ids``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..api import CallArguments, Model, attention_of
from ..families import Family


def reads_gaps(model: Model) -> bool:
    """Whether the model's attention kernels read gaps in positions as document borders."""
    return "flash" in attention_of(model.config.get_text_config())


def hide_positions(model: Model, family: Family) -> list[Any]:
    """Attach to the decoder's layers where that is needed; returns the hooks' handles."""
    if not reads_gaps(model):
        return []
    decoder: Any = family.decoder(model)
    return [
        layer.register_forward_pre_hook(_without_positions, with_kwargs=True)
        for layer in decoder.layers
    ]


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _without_positions(
    layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return args, CallArguments(kwargs).but(positions=None)
