"""Slots that stand for several tokens count as many in every attention layer.

The rule, and the channels that fold it into a product of queries and keys, are those of
`lftr.hosts.transformers.layers.slot_weights`. There the channels exist for the time of a call. Here
the paged cache is what the kernels read, so the cache holds them: each head of the language model
is wider than the model's own, by as much as the attention backend needs to take the size.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from vllm.config import VllmConfig, get_current_vllm_config
from vllm.logger import init_logger
from vllm.model_executor.layers.attention import Attention
from vllm.model_executor.layers.attention_layer_base import AttentionLayerBase
from vllm.model_executor.layers.mamba.abstract import MambaBase
from vllm.v1.attention.selector import get_attn_backend

from ....values.errors import UnsupportedModelError

logger = init_logger("vllm.lftr")

CHANNELS = 2
"""A logarithm in a slot's features, and its term in a key: rounded, and what rounding lost."""

_WHOLE = ("auto", "float16", "bfloat16")  # dtypes of caches, others have 8 bits or fewer
_STEP = 8  # backends take head sizes that are multiples of 8
_OTHERWISE = "; allowed: weights = 'none'"


def check(vllm_config: VllmConfig) -> None:
    """Check that a step is one batch of tokens, and that its keys are cached as they are.

    Raises
    ------
    UnsupportedModelError
        If not; the message says what to change.
    """
    parallel, cache = vllm_config.parallel_config, vllm_config.cache_config.cache_dtype
    refused = {
        f"kv_cache_dtype = {cache!r}, which rounds them": cache not in _WHOLE,
        "kv_transfer_config or kv_offloading_size, which takes heads for the model's own": (
            vllm_config.kv_transfer_config is not None
            or vllm_config.cache_config.kv_offloading_size is not None
        ),
        "micro-batches (DBO)": parallel.use_ubatching,
        "prefill context parallelism": parallel.prefill_context_parallel_size > 1,
    }
    for what, is_set in refused.items():
        if is_set:
            raise UnsupportedModelError(f"weights of slots with {what}{_OTHERWISE}")


def with_logs(features: Tensor, logs: Tensor | None) -> Tensor:
    """Append the logarithms of the slots' weights to their channels.

    Parameters
    ----------
    features : Tensor, shape (K, C)
        The slots of an item.
    logs : Tensor of float32, shape (K,), optional
        None for zeros.
    """
    if logs is None:
        return pad(features, (0, CHANNELS))
    return torch.cat([features, _in_parts(logs, features.dtype)], dim=1)


def _in_parts(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Return float32 values ``(n,)`` as sums of two numbers of another dtype, ``(n, 2)``."""
    high = values.to(dtype)
    return torch.stack([high, (values - high).to(dtype)], dim=1)


class StepWeights:
    """The logarithms of the tokens of a step, and the attention layers that add them.

    Parameters
    ----------
    tokens : int
        The most tokens of a step.
    """

    def __init__(self, tokens: int) -> None:
        # one tensor for all steps, since CUDA graphs read where they were recorded
        self.logs = torch.zeros(tokens, dtype=torch.float32)

    @contextmanager
    def widening(self) -> Iterator[None]:
        """Give every attention layer that the body constructs wider heads."""
        construct = Attention.__init__
        signature, logs = inspect.signature(construct), self.logs

        def widened(layer: Attention, *args: Any, **kwargs: Any) -> None:
            if type(layer) is not Attention:
                raise UnsupportedModelError(
                    f"weights of slots with {type(layer).__name__}{_OTHERWISE}"
                )
            call = signature.bind(layer, *args, **kwargs)
            call.apply_defaults()
            plain, cache = call.arguments["head_size"], call.arguments["cache_config"]
            if call.arguments["logits_soft_cap"]:
                raise UnsupportedModelError(
                    "weights of slots with a limit on attention logits (softcap), which would "
                    f"limit them{_OTHERWISE}"
                )
            dtype = "auto" if cache is None else cache.cache_dtype
            model = get_current_vllm_config().model_config
            # what vLLM asks of the backend too: attention within images in both directions
            two_way = model is not None and model.is_mm_prefix_lm
            call.arguments["head_size"] = wider_head(plain, dtype, two_way)
            layer.__class__ = WeightedAttention
            construct(*call.args, **call.kwargs)
            layer.finish(plain, logs)

        Attention.__init__ = widened
        try:
            yield
        finally:
            Attention.__init__ = construct

    def check(self, decoder: nn.Module, vllm_config: VllmConfig) -> None:
        """Check that all attention of the language model has wider heads, and say so to vLLM.

        Layers with linear attention have no logits to add to.
        """
        every = [one for one in decoder.modules() if isinstance(one, AttentionLayerBase)]
        layers = [one for one in every if not isinstance(one, MambaBase)]
        if len(layers) < len(every):
            logger.info(
                "lftr: %d layers with linear attention take each slot as one token, whatever its "
                "weight",
                len(every) - len(layers),
            )
        others = {type(one).__name__ for one in layers if not isinstance(one, WeightedAttention)}
        sizes = {one.head_size for one in layers if isinstance(one, WeightedAttention)}
        if others or len(sizes) != 1:
            reason = ", ".join(sorted(others)) or f"heads of {sorted(sizes)} channels"
            raise UnsupportedModelError(f"weights of slots with {reason}{_OTHERWISE}")
        # kernels allocate by this number
        (vllm_config.model_config.model_arch_config.head_size,) = sizes

    def taken(self, count: int, features: Sequence[Tensor], slots: Tensor | None) -> list[Tensor]:
        """Note the logarithms of a step's tokens; return features without their channels.

        Parameters
        ----------
        count : int
            Number of tokens of the step.
        features : sequence of Tensor, shape (n, C + CHANNELS)
            The slots of items among them.
        slots : Tensor of bool, shape (count,), optional
            Which tokens they are; None if there are no features.
        """
        logs = self.logs[:count].zero_()
        if slots is not None and features:
            rows = torch.cat([one[:, -CHANNELS:] for one in features]).float().sum(1)
            logs.masked_scatter_(slots.to(logs.device, non_blocking=True), rows)
        return [one[:, :-CHANNELS] for one in features]


class WeightedAttention(Attention):
    """vLLM's attention layer, with channels that add a term to the logits of each key."""

    def finish(self, plain_size: int, logs: Tensor) -> None:
        """Complete a layer that was constructed with wider heads.

        Parameters
        ----------
        plain_size : int
            Channels of a head in the model.
        logs : Tensor of float32, shape (tokens,)
            The logarithms of each step's tokens.
        """
        self.plain_size = plain_size
        self.register_buffer("slot_logs", logs, persistent=False)
        if self.kv_cache_dtype not in _WHOLE:  # where the checkpoint asks for it
            raise UnsupportedModelError(
                f"weights of slots with a cache of {self.kv_cache_dtype}, which rounds them"
                f"{_OTHERWISE}"
            )

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attend, each key by its token's weight."""
        tokens, plain = len(query), self.plain_size
        spare = self.head_size - plain - CHANNELS
        query = query.view(tokens, self.num_heads, plain)
        key = key.view(tokens, self.num_kv_heads, plain)
        value = value.view(tokens, self.num_kv_heads, plain)
        term = _in_parts(self.slot_logs[:tokens] / self.impl.scale, key.dtype)
        terms = term[:, None].expand(-1, self.num_kv_heads, -1)
        ones = query.new_ones(tokens, self.num_heads, CHANNELS)
        output: Tensor = super().forward(
            pad(torch.cat([query, ones], dim=-1), (0, spare)),
            pad(torch.cat([key, terms], dim=-1), (0, spare)),
            pad(value, (0, self.head_size - plain)),
        )
        return output.view(tokens, self.num_heads, -1)[..., :plain].flatten(1)


def wider_head(plain: int, cache_dtype: str, two_way: bool = False) -> int:
    """Return the smallest head size with room for the channels that a backend takes.

    Parameters
    ----------
    plain : int
        The model's own.
    cache_dtype : str
        vLLM's name for the dtype of the cache.
    two_way : bool
        Whether tokens of an image see each other in both directions.

    Raises
    ------
    UnsupportedModelError
        If there is none up to twice the model's own.
    """
    first = -(-(plain + CHANNELS) // _STEP) * _STEP
    for size in range(first, 2 * plain + 1, _STEP):
        try:
            backend = get_attn_backend(
                size, torch.get_default_dtype(), cache_dtype, use_mm_prefix=two_way
            )
        except ValueError:  # no backend takes it
            continue
        if backend.supports_head_size(size):
            return size
    raise UnsupportedModelError(
        f"weights of slots need heads of {first} to {2 * plain} channels, and this machine's "
        f"attention takes none of these{_OTHERWISE}"
    )
