"""Linear attention of Qwen3.5 in float32 torch, for engines on CPUs.

vLLM's own kernels there compute in bfloat16 alone, so that their answers could not be compared with
those of transformers token by token.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import torch
from torch import Tensor
from torch.nn.functional import conv1d, normalize, silu, softplus


@contextmanager
def in_float32() -> Iterator[None]:
    """Replace the kernels, in this process."""
    from vllm.model_executor.layers.mamba.ops.cpu.gdn_attention import (
        register_cpu_gdn_attention_ops,
    )

    register_cpu_gdn_attention_ops()
    with mock.patch.object(torch.ops.vllm, "cpu_gdn_attention_core", _attend):
        yield


def _attend(mixed: Tensor, b: Tensor, a: Tensor, output: Tensor, name: str) -> None:
    """Do what vLLM's operator of that name does: each request from its own state, in turn."""
    from vllm.forward_context import get_forward_context
    from vllm.model_executor.layers.mamba.mamba_utils import is_conv_state_dim_first
    from vllm.utils.torch_utils import _resolve_layer_name

    context = get_forward_context()
    if context.attn_metadata is None:  # memory is measured
        return
    layer = context.no_compile_layers[_resolve_layer_name(name)]
    step = context.attn_metadata[layer.prefix]
    assert mixed.dtype == torch.float32
    assert not is_conv_state_dim_first()
    assert step.num_spec_decodes == 0
    convolved, recurrent = layer.kv_cache
    kernel = layer.conv1d.weight
    decays = -layer.A_log.exp() * softplus(a + layer.dt_bias)
    starts = step.non_spec_query_start_loc.tolist()
    for i in range(step.num_decodes + step.num_prefills):
        rows, place = slice(starts[i], starts[i + 1]), int(step.non_spec_state_indices_tensor[i])
        if i >= step.num_decodes and not step.has_initial_state[i]:
            convolved[place] = 0
            recurrent[place] = 0
        inputs = torch.cat([convolved[place], mixed[rows]])
        convolved[place] = inputs[-len(convolved[place]) :]
        sums = silu(conv1d(inputs.T[None], kernel, groups=len(kernel))[0].T)
        q, k, v = (part[0] for part in layer.rearrange_mixed_qkv(sums))
        shared = v.shape[1] // k.shape[1]
        q, k = (normalize(x, dim=-1).repeat_interleave(shared, dim=1) for x in (q, k))
        steps = zip(q * q.shape[-1] ** -0.5, k, v, decays[rows], b[rows].sigmoid(), strict=True)
        state, outputs = recurrent[place].clone(), []  # (heads, v, k)
        for query, key, value, decay, rate in steps:
            state = state * decay.exp()[:, None, None]
            change = (value - torch.einsum("hvk,hk->hv", state, key)) * rate[:, None]
            state = state + change[:, :, None] * key[:, None]
            outputs.append(torch.einsum("hvk,hk->hv", state, query))
        recurrent[place] = state
        output[rows] = torch.stack(outputs)
