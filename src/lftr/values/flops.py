"""Floating-point operations: by formulas from a configuration, or counted while code runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from .errors import ArgumentError, UnsupportedModelError

CONVENTIONS = ("fastv", "gated", "true")

_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")


@dataclass(frozen=True)
class _Dimensions:
    """Layers of a decoder, and its widths: hidden, MLP, all query heads, all key heads."""

    layers: int
    hidden: int
    inside: int
    queries: int
    keys: int

    @classmethod
    def of(cls, config: Any) -> _Dimensions:
        text = config.get_text_config()
        if (reason := _unlike(text)) is not None:
            raise UnsupportedModelError(
                f"{text.model_type} {reason}; the formulas are for dense decoders of full "
                "attention and gated MLPs (lftr.profiling.counted counts whatever runs)"
            )
        heads = text.num_attention_heads
        each = getattr(text, "head_dim", None) or text.hidden_size // heads
        groups = getattr(text, "num_key_value_heads", None) or heads
        return cls(
            text.num_hidden_layers,
            text.hidden_size,
            text.intermediate_size,
            heads * each,
            groups * each,
        )


def _unlike(text: Any) -> str | None:
    """Return what of a decoder the formulas do not cover; None if they cover it all."""
    if not hasattr(text, "intermediate_size"):
        return "has no gated MLP"
    if any((getattr(text, name, None) or 0) > 1 for name in _EXPERTS):
        return "is a mixture of experts"
    if any(kind.startswith("linear") for kind in getattr(text, "layer_types", None) or ()):
        return "has layers of linear attention"
    if getattr(text, "cross_attention_layers", None):
        return "has layers of cross-attention"
    return None


def prefill_flops(config: Any, tokens_per_layer: Sequence[int], convention: str) -> int:
    """Return the number of operations of the prefill of one prompt, in the decoder's layers.

    Parameters
    ----------
    config : transformers.PretrainedConfig
        Of the whole model or of its text decoder.
    tokens_per_layer : sequence of int
        Tokens of the prompt, text and visual, that enter each layer of the decoder. The numbers are
        equal unless tokens are dropped inside the language model.
    convention : {"fastv", "gated", "true"}
        ``"fastv"``: ``4nd^2 + 2n^2d + 2ndm`` for each layer, of FastV (arXiv 2403.06764), with
        ``n`` columns, ``d`` hidden size, ``m`` intermediate size. It counts a multiplication with
        its addition once, as many key heads as query heads, and two matrices in the MLP.
        ``"gated"``: the same with the three matrices of a gated MLP (SwiGLU), ``3ndm``.
        ``"true"``: a multiplication and its addition are two, and there are as many key heads as
        the model has. None of the three halves causal attention; norms, rotary angles and the
        head over the vocabulary are left out.

    Raises
    ------
    ArgumentError
        If the convention is unknown, or the number of layers is another.
    UnsupportedModelError
        If the formulas do not cover the decoder: a mixture of experts, linear attention,
            cross-attention.
    """
    if convention not in CONVENTIONS:
        raise ArgumentError.of("convention", convention, ", ".join(map(repr, CONVENTIONS)))
    sizes = _Dimensions.of(config)
    if len(tokens_per_layer) != sizes.layers:
        raise ArgumentError.of(
            "tokens_per_layer",
            list(tokens_per_layer),
            f"a number for each of the {sizes.layers} layers",
        )
    return sum(_layer(sizes, int(n), convention) for n in tokens_per_layer)


def _layer(sizes: _Dimensions, n: int, convention: str) -> int:
    d, m = sizes.hidden, sizes.inside
    if convention == "true":
        projections = 2 * n * d * (sizes.queries + sizes.keys)  # query and output, key and value
        return 2 * (projections + 2 * n * n * sizes.queries + 3 * n * d * m)
    return 4 * n * d * d + 2 * n * n * d + (3 if convention == "gated" else 2) * n * d * m


@contextmanager
def counted() -> Iterator[FlopCounterMode]:
    """Count the operations of the code in the block; ``get_total_flops()`` returns their number.

    A multiplication and its addition are two. Matrix products, convolutions and attention are
    counted by their shapes, elementwise operations are not. Code runs slowly meanwhile, so times
    taken in the block mean nothing.
    """
    with FlopCounterMode(display=False, custom_mapping=_attention_on_cpus()) as counter:
        yield counter


def _attention_on_cpus() -> dict[Any, Any]:
    """Return the rule for the CPU's fused attention, which torch's counter does not include."""
    operator = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", None)
    return {} if operator is None else {operator: _attention}


def _attention(
    query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: Any, **__: Any
) -> int:
    batch, heads, rows, width = query
    return 2 * batch * heads * rows * key[-2] * (width + value[-1])
