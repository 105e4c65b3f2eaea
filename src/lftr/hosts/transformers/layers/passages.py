"""What enters and leaves the attention and the MLP of a decoder layer, read while it runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ....evidence.attention import attention_modules
from ....methods.inside.base import Passage
from ....values.errors import UnsupportedModelError
from ..api import CallArguments

_MLPS = ("mlp", "feed_forward", "block_sparse_moe", "moe", "ffn")


@dataclass(frozen=True)
class Passages:
    """What entered and left a part of a layer, ``(B, R, C)`` each; see `Passage`."""

    entered: Tensor
    left: Tensor

    def of_row(self, row: int, rows: Tensor) -> Passage:
        """Return the passage of the tokens ``rows`` ``(L,)`` of one row."""
        rows = rows.to(self.entered.device)
        return Passage(self.entered[row, rows], self.left[row, rows])


def parts_of(layer: nn.Module) -> dict[str, nn.Module] | None:
    """Return a layer's attention and its MLP; None if it has no such parts."""
    attention = next(iter(attention_modules(layer)), None)
    mlp = next((part for name, part in layer.named_children() if name in _MLPS), None)
    return None if attention is None or mlp is None else {"attention": attention, "mlp": mlp}


def follow(part: nn.Module, keep: Callable[[Passages], None]) -> Any:
    """Attach to a part of a layer; ``keep`` receives what goes through it. Returns the handle."""

    def after(
        module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        entered = args[0] if args else CallArguments(kwargs).states
        left = output[0] if isinstance(output, tuple) else output
        for states in (entered, left):
            if not isinstance(states, Tensor) or states.ndim != 3:
                raise UnsupportedModelError(
                    f"{type(module).__name__} is not called with the states of all tokens, "
                    "(B, L, C), and does not return them; use another method"
                )
        if entered.shape != left.shape:
            raise UnsupportedModelError(
                f"{type(module).__name__} changes the shape of states, from {tuple(entered.shape)} "
                f"to {tuple(left.shape)}; use another method"
            )
        keep(Passages(entered.detach(), left.detach()))

    return part.register_forward_hook(after, with_kwargs=True)
