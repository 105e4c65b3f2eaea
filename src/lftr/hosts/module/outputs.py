"""The visual tokens in what a module returned, and the same output with fewer of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ...values.errors import ArgumentError


def tokens_of(output: Any) -> list[Tensor]:
    """Return the tensors of visual tokens in a module's output, each ``(B, N, C)`` or ``(N, C)``.

    All tensors of a list that holds nothing else, each of one or several images; otherwise the
    output itself, the first entry of a tuple or list, or ``last_hidden_state``.
    """
    if _all_tokens(output):
        return list(output)
    first = output[0] if isinstance(output, (tuple, list)) and output else output
    first = getattr(first, "last_hidden_state", first)
    if not isinstance(first, Tensor) or first.ndim != 3:
        returned = tuple(first.shape) if isinstance(first, Tensor) else type(first).__name__
        raise ArgumentError.of(
            "module",
            f"one that returns {returned}",
            "visual tokens (B, N, C), or a list of tensors",
        )
    return [first]


def with_tokens(output: Any, tokens: Sequence[Tensor]) -> Any:
    """Return the output with other tensors in the place of those that `tokens_of` returned."""
    if _all_tokens(output):
        return list(tokens)
    if isinstance(output, Tensor):
        return tokens[0]
    if isinstance(output, (tuple, list)):
        make = getattr(output, "_make", type(output))  # a named tuple takes no list
        return make([with_tokens(output[0], tokens), *output[1:]])
    output.last_hidden_state = tokens[0]
    return output


def _all_tokens(output: Any) -> bool:
    """Whether an output is a list of tensors of visual tokens, all of one width."""
    return (
        isinstance(output, list)
        and bool(output)
        and all(isinstance(one, Tensor) and one.ndim in (2, 3) for one in output)
        and len({(one.ndim, one.shape[-1]) for one in output}) == 1
    )
