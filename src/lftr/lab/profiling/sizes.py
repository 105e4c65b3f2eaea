"""The costs of a setting besides time: tokens, cache, memory, operations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from ...hosts.transformers.api import returned_cache
from ...values.errors import UnsupportedModelError
from ...values.flops import counted, prefill_flops
from ...values.report import Report
from ..asking.settings import Setting
from .call import Call
from .memory import peak_memory
from .parts import last_logits


@dataclass(frozen=True)
class Sizes:
    """Counts of one prefill of a batch.

    Attributes
    ----------
    tokens, kept : int
        Visual tokens before and after, over all rows.
    average : float
        Number of visual tokens in a decoder layer, mean over the layers; equal to ``kept`` unless a
        method inside the language model drops more.
    columns : int
        Columns of the prompt that reached the language model, of each row.
    kv_bytes : int
        Keys and values in the cache after the prefill.
    peak_bytes : int
        Peak memory of the prefill, above weights and inputs; `memory.source_of` names the source.
    flops : mapping
        Operations by convention. ``"fastv"`` and ``"gated"`` are formulas for the decoder layers
        only, None if they do not describe the decoder; ``"true"`` is counted over everything that
        ran: encoder, method, language model.
    """

    tokens: int
    kept: int
    average: float
    columns: int
    kv_bytes: int
    peak_bytes: int
    flops: Mapping[str, int | None]


@torch.inference_mode()
def count_sizes(call: Call, setting: Setting) -> Sizes:
    """Run the call once for its memory and once for its operations."""
    with call.under(setting) as reduction:
        with peak_memory(call.model.device) as peak:
            output = call.model(**call.inputs, **last_logits(call.model))
        kv_bytes = cache_bytes(_cache_of(output))
        del output
        with counted() as counter:
            call.model(**call.inputs, **last_logits(call.model))
        report = reduction.report
    columns = report.received or call.inputs["input_ids"].shape[1]
    prompts = _layers_of_prompts(call, report, columns)
    flops = {name: _formula(call, prompts, name) for name in ("fastv", "gated")}
    flops["true"] = counter.get_total_flops()
    return Sizes(report.tokens, report.kept, report.average, columns, kv_bytes, peak.bytes, flops)


def _layers_of_prompts(call: Call, report: Report, columns: int) -> list[tuple[int, ...]] | None:
    """Return the columns of each row in each decoder layer; None if some are frozen."""
    if not report.layers:
        depth = call.model.config.get_text_config().num_hidden_layers
        return [(columns,) * depth] * len(call.asked)
    if any(layer.shown not in ("active", "dropped") for layer in report.layers):
        return None
    return list(zip(*(layer.columns for layer in report.layers), strict=True))


def _formula(call: Call, prompts: Sequence[Sequence[int]] | None, convention: str) -> int | None:
    if prompts is None:
        return None
    try:
        return sum(prefill_flops(call.model.config, each, convention) for each in prompts)
    except UnsupportedModelError:
        return None


def cache_bytes(cache: Any) -> int:
    """Return the bytes of all tensors that a cache holds, 0 without a cache."""
    parts = [getattr(cache, f"{kind}_attention_cache", None) for kind in ("self", "cross")]
    if any(part is not None for part in parts):
        return sum(map(cache_bytes, parts))
    held = tree_leaves([vars(layer) for layer in getattr(cache, "layers", [])])
    return sum(value.nbytes for value in held if isinstance(value, Tensor))


def _cache_of(output: Any) -> Any:
    """Return the cache that a forward filled, also where the decoder's output is nested in it."""
    cache = returned_cache(output)
    return cache or returned_cache(getattr(output, "language_model_outputs", None))
