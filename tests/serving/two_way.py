"""Attention in torch for engines on CPUs: two-way within images, as vLLM has it on GPUs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor


def two_way(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Replace the kernels of vLLM's attention on CPUs, which look back alone.

    Returns
    -------
    list of (int, int)
        The ranges of a prompt in which tokens see each other, as vLLM computes them for kernels
        that take them; those of every step are appended.
    """
    from vllm.v1.attention.backends import cpu_attn

    builder, impl = cpu_attn.CPUAttentionMetadataBuilder, cpu_attn.CPUAttentionBackendImpl
    build, seen = builder.build, []

    def noting(self: Any, prefix: int, common: Any, *args: Any, **kwargs: Any) -> Any:
        metadata = build(self, prefix, common, *args, **kwargs)
        metadata.ranges = common.mm_req_doc_ranges or {}
        seen.extend(pair for pairs in metadata.ranges.values() for pair in pairs)
        return metadata

    def remember(self: Any, layer: Any, key: Tensor, value: Tensor, _: Any, slots: Tensor) -> None:
        rows = zip(slots.tolist(), torch.stack([key, value], dim=1).clone(), strict=False)
        self.__dict__.setdefault("remembered", {}).update(rows)

    def attend(
        self: Any,
        layer: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        kv_cache: Tensor,
        metadata: Any,
        output: Tensor,
        **_: Any,
    ) -> Tensor:
        if metadata is None:
            return output
        side = kv_cache.shape[2]
        starts = metadata.query_start_loc.tolist()
        nothing = torch.zeros(2, *key.shape[1:])
        for i, length in enumerate(metadata.seq_lens.tolist()):
            first, last = starts[i], starts[i + 1]
            if first == last:
                continue
            blocks = metadata.block_table[i].tolist()
            slots = [blocks[place // side] * side + place % side for place in range(length)]
            # what a sliding layer no longer has is masked below
            found = torch.stack([self.remembered.get(slot, nothing) for slot in slots])
            keys, values = found.repeat_interleave(self.num_queries_per_kv, dim=2).unbind(1)
            columns = torch.arange(length)
            rows = columns[length - (last - first) :, None]
            visible = columns <= rows
            if self.sliding_window > 0:
                visible &= rows - columns < self.sliding_window
            for begin, end in metadata.ranges.get(i, ()):
                inside = (columns >= begin) & (columns <= end)
                visible |= inside & (rows >= begin) & (rows <= end)
            logits = torch.einsum("qhc,khc->hqk", query[first:last] * self.scale, keys)
            shares = logits.masked_fill(~visible, -torch.inf).softmax(dim=-1)
            mixed = torch.einsum("hqk,khc->qhc", shares, values)
            output[first:last] = mixed.reshape(output[first:last].shape)
        return output

    monkeypatch.setattr(builder, "build", noting)
    monkeypatch.setattr(impl, "do_kv_cache_update", remember)
    monkeypatch.setattr(impl, "forward", attend)
    return seen
