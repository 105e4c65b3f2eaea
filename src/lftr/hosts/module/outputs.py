"""The visual tokens in what a module returned, and the same output with fewer of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from ...values.errors import ArgumentError

_ALLOWED = "visual tokens (B, N, C), or a list of tensors"


def tokens_of(output: Any) -> list[Tensor]:
    """Return the tensors of visual tokens in a module's output, each ``(B, N, C)`` or ``(N, C)``.

    All tensors of a list that holds nothing else, each of one or several images, and of a tuple of
    ``(B, N, C)``, which `torch.split` returns; otherwise the output itself, the first entry of a
    tuple or list, or ``last_hidden_state``.

    Raises
    ------
    ArgumentError
        If there are none, or if it is not clear which of several tensors are visual tokens.
    """
    if _all_tokens(output):
        return list(output)
    first = output[0] if isinstance(output, (tuple, list)) and output else output
    first = getattr(first, "last_hidden_state", first)
    if not isinstance(first, Tensor) or first.ndim != 3:
        returned = tuple(first.shape) if isinstance(first, Tensor) else type(first).__name__
        raise ArgumentError.of("module", f"one that returns {returned}", _ALLOWED)
    if _unclear(output, first):
        kinds = [tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__ for x in output]
        allowed = f"{_ALLOWED}; it is not clear which of these are visual tokens"
        raise ArgumentError.of("module", f"one that returns {kinds}", allowed)
    return [first]


def with_tokens(output: Any, tokens: Sequence[Tensor]) -> Any:
    """Return the output with other tensors in the place of those that `tokens_of` returned."""
    if _all_tokens(output):
        return type(output)(tokens)
    if isinstance(output, Tensor):
        return tokens[0]
    if isinstance(output, (tuple, list)):
        make = getattr(output, "_make", type(output))  # a named tuple takes no list
        return make([with_tokens(output[0], tokens), *output[1:]])
    output.last_hidden_state = tokens[0]
    return output


def entries_beside(output: Any) -> list[str]:
    """Name the entries of an output that `with_tokens` leaves as they are, and that look as long.

    These are tensors of three dimensions or more, or of as many rows or columns as there are
    tokens: hidden states, attention maps, masks.
    """
    if isinstance(output, Tensor) or _all_tokens(output):
        return []
    count = tokens_of(output)[0].shape[1]
    return [
        name
        for name, entry in _beside(output)
        if any(one.ndim > 2 or count in one.shape for one in _tensors(entry))
    ]


def _all_tokens(output: Any) -> bool:
    """Whether an output is a list of tensors of visual tokens, or a tuple of ``(B, N, C)``."""
    allowed: dict[type[Any], tuple[int, ...]] = {list: (2, 3), tuple: (3,)}
    dims = allowed.get(type(output))
    return dims is not None and _of_one_width(output, dims)


def _of_one_width(entries: Sequence[Any], dims: tuple[int, ...]) -> bool:
    """Whether all entries are features: real tensors of so many dimensions, equal in the last."""
    tensors = [one for one in entries if isinstance(one, Tensor) and one.is_floating_point()]
    widths = {one.shape[-1] for one in tensors if one.ndim in dims}
    return (
        len(tensors) == len(entries)
        and len(widths) == 1
        and all(one.ndim in dims for one in tensors)
    )


def _unclear(output: Any, first: Tensor) -> bool:
    """Whether entries after the first of a tuple or list may be visual tokens too.

    A tensor ``(B, C)`` beside tokens ``(B, N, C)`` is a pooled state, as encoders return it.
    """
    if not isinstance(output, (tuple, list)):
        return False
    if any(hasattr(one, "last_hidden_state") for one in output[1:]):
        return True
    named = hasattr(output, "_fields")
    pooled = [isinstance(one, Tensor) and one.shape == first[:, 0].shape for one in output[1:]]
    return not named and not all(pooled) and _of_one_width(output, (2, 3))


def _beside(output: Any) -> Iterator[tuple[str, Any]]:
    """Yield the entries beside the tokens with their names."""
    if isinstance(output, (tuple, list)):
        names = getattr(output, "_fields", [f"[{i}]" for i in range(len(output))])
        yield from zip(names[1:], output[1:], strict=True)
        output = output[0]
    for name, entry in getattr(output, "__dict__", {}).items():
        if name != "last_hidden_state":
            yield name, entry


def _tensors(entry: Any) -> Iterator[Tensor]:
    if isinstance(entry, Tensor):
        yield entry
    elif isinstance(entry, (tuple, list, Mapping)):
        for one in entry.values() if isinstance(entry, Mapping) else entry:
            yield from _tensors(one)
