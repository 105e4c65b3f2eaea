"""Stand-ins for kernels that need a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, flash_attention_mask
from transformers.modeling_flash_attention_utils import _is_packed_sequence
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS


def flash_like(
    module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """Attention as FlashAttention's interface has it: padding as (B, S), causal from the end.

    A sliding window is a number of keys up to the query's own, and no part of the mask.

    Without a mask, one row's positions with gaps are taken for packed sequences, as transformers
    does; then the kernel reads no more keys than there are queries.
    """
    assert mask is None or mask.ndim == 2
    if _is_packed_sequence(kwargs.get("position_ids"), len(query)) and mask is None:
        key, value = key[:, :, : query.shape[2]], value[:, :, : query.shape[2]]
    groups = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(groups, dim=1) for x in (key, value))
    seen = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool)
    seen = seen.tril(key.shape[2] - query.shape[2])[None, None]
    window = kwargs.get("sliding_window")
    if window is not None:
        seen = seen.triu(key.shape[2] - query.shape[2] - window + 1)
    if mask is not None:
        seen = seen & mask.bool()[:, None, None]
    out = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=seen, scale=kwargs.get("scaling")
    )
    return out.transpose(1, 2).contiguous().nan_to_num(), None


@contextmanager
def flash_kernel() -> Iterator[str]:
    """Register `flash_like`; yields its name as an attention implementation."""
    name = "flash_like"
    ALL_ATTENTION_FUNCTIONS.register(name, flash_like)
    ALL_MASK_ATTENTION_FUNCTIONS.register(name, flash_attention_mask)
    yield name
    for table in (ALL_ATTENTION_FUNCTIONS, ALL_MASK_ATTENTION_FUNCTIONS):
        del type(table)._global_mapping[name]
