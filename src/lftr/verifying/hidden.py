"""The reference inside the language model: the full prompt, with masks that hide dropped tokens.

This file hooks the decoder layers of the plain model. The hooks mask dropped columns for every
query, replace the states of anchors by merged states, and keep the states of frozen and bypassed
tokens unchanged. Each step runs the whole prompt, one unpadded row, without a cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..hosts.transformers.api import CallArguments, attention_of
from ..values.errors import LftrError, UnsupportedModelError
from .recorders import LayerChoice
from .reference import IDS, MASK, ModelInputs, Reference

STATES = CallArguments.name("states")

_MASKED = {"full_attention", "sliding_attention", "chunked_attention"}


@dataclass(frozen=True)
class LayerChoices:
    """The decisions of a method inside the language model about one prompt.

    Attributes
    ----------
    columns : Tensor of int64
        The columns of the prompt's visual tokens.
    choices : sequence of LayerChoice
        The decisions, in the order of the layers.
    states : sequence of str
        For each layer whether visual tokens are "active", "frozen" or "bypassed".
    noise : bool
        Whether dropped columns are filled with noise. If this changes the logits, layers read
        columns in spite of the mask, and this reference does not hold.
    exponent : float
        How much the tokens that a merged one stands for count, see `Reference.logits`.
    """

    columns: Tensor
    choices: Sequence[LayerChoice] = ()
    states: Sequence[str] = ()
    noise: bool = False
    exponent: float = 0.0

    def alive(self, layer: int) -> Tensor:
        """Return the columns of the visual tokens that a layer receives, ascending."""
        columns = self.columns
        for at, size, choice in self.choices:
            if at > layer:
                continue
            if len(columns) != size:
                raise LftrError(
                    f"before layer {at} the method received {size} visual tokens, but "
                    f"{len(columns)} were left"
                )
            columns = columns[:0] if choice is None else columns[choice.index.cpu()]
        return columns

    def log_weight(self, layer: int, length: int) -> Tensor:
        """Return the logarithms of how many tokens the columns stand for in a layer, ``(L,)``."""
        weight = torch.ones(len(self.columns))
        for at, _, choice in self.choices:
            if at <= layer:
                weight = weight[:0] if choice is None else choice.inherited(weight)
        return torch.zeros(length).index_copy(0, self.alive(layer).cpu(), weight.log().cpu())


def hidden_logits(reference: Reference, chosen: LayerChoices) -> Tensor:
    """Return the logits after the prompt and each following token, with dropped tokens masked.

    Returns
    -------
    Tensor of float32, shape (1 + len(new), V)
        On the CPU.

    Raises
    ------
    UnsupportedModelError
        If the decoder layers are not found, or their attention does not take masks.
    """
    kernel = attention_of(reference.model.config.get_text_config())
    if kernel not in ("sdpa", "eager"):
        raise UnsupportedModelError(
            f"this check hides columns by masks, which {kernel!r} does not take; load the model "
            "with attn_implementation='sdpa' for this check"
        )
    kinds = getattr(reference.model.config.get_text_config(), "layer_types", None) or []
    others = sorted(set(kinds) - _MASKED)
    if others:
        raise UnsupportedModelError(
            f"this check hides columns by masks, which layers of {', '.join(others)} do not take"
        )
    with _hide_dropped(layers_of(reference.model), chosen, reference.inputs[IDS].shape[1]):
        return reference.logits()


def layers_of(model: Any) -> list[nn.Module]:
    """Return the decoder layers of the language model.

    Raises
    ------
    UnsupportedModelError
        If there are none.
    """
    for module in model.get_decoder().modules():
        layers = getattr(module, "layers", None)
        if isinstance(layers, nn.ModuleList):
            return list(layers)
    raise UnsupportedModelError(f"no decoder layers were found in {type(model).__name__}")


@contextmanager
def _hide_dropped(layers: Sequence[nn.Module], chosen: LayerChoices, length: int) -> Iterator[None]:
    with ExitStack() as stack:
        for number, layer in enumerate(layers):
            watch = _LayerWatch(chosen, number, length)
            enter = layer.register_forward_pre_hook(watch.enter, with_kwargs=True)
            leave = layer.register_forward_hook(watch.leave)
            stack.callback(enter.remove)
            stack.callback(leave.remove)
        yield


class _LayerWatch:
    """The hooks of one layer, for prompts of ``length`` columns."""

    def __init__(self, chosen: LayerChoices, number: int, length: int) -> None:
        self.chosen = chosen
        self.number = number
        self.alive = chosen.alive(number)
        self.state = chosen.states[number] if chosen.states else "active"
        self.dropped = torch.zeros(length, dtype=torch.bool)
        self.dropped[chosen.columns] = True
        self.dropped[self.alive] = False
        self.logs = chosen.log_weight(number, length) * chosen.exponent
        self.entered = torch.empty(0)

    def enter(
        self, layer: nn.Module, args: tuple[Any, ...], kwargs: ModelInputs
    ) -> tuple[tuple[Any, ...], ModelInputs]:
        states: Tensor = args[0] if args else kwargs[STATES]
        kwargs = {name: value for name, value in kwargs.items() if name != STATES}
        states = self._noisy(self._merged(states))
        self.entered = states
        unseen = self.dropped.clone()
        unseen[self.alive] = self.state == "bypassed"
        mask = hide(kwargs.get(MASK), unseen, states)
        if bool(self.logs.any()):
            if mask.dtype == torch.bool:
                lowest = torch.finfo(states.dtype).min
                mask = torch.zeros_like(mask, dtype=states.dtype).masked_fill(~mask, lowest)
            mask = mask + self.logs.to(mask)
        kwargs[MASK] = mask
        return (states, *args[1:]), kwargs

    def leave(self, layer: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if self.state == "active":
            return None
        states = output[0] if isinstance(output, tuple) else output
        still = states.clone()
        still[:, self.alive] = self.entered[:, self.alive].to(states.device)
        return (still, *output[1:]) if isinstance(output, tuple) else still

    def _merged(self, states: Tensor) -> Tensor:
        """Replace the states of anchors by the states merged before this layer."""
        for at, _, choice in self.chosen.choices:
            if at == self.number and choice is not None and choice.flow is not None:
                seen = self.chosen.alive(at - 1)
                states = states.clone()
                states[0, seen[choice.index.cpu()]] = choice.apply(states[0, seen])
        return states

    def _noisy(self, states: Tensor) -> Tensor:
        if not self.chosen.noise or not bool(self.dropped.any()):
            return states
        draw = torch.Generator().manual_seed(self.number)
        shape = (int(self.dropped.sum()), states.shape[-1])
        noise = torch.randn(shape, generator=draw).to(states) * states.float().std().to(states)
        states = states.clone()
        states[0, self.dropped] = noise
        return states


def hide(mask: Tensor | None, unseen: Tensor, states: Tensor) -> Tensor:
    """Return a layer's mask with columns hidden from every query.

    A hidden column still attends to itself, so that no row of the mask is empty.

    Parameters
    ----------
    mask : Tensor, optional, shape (1, 1 or H, L, L)
        Bool, or additive; None means causal.
    unseen : Tensor of bool, shape (L,)
        The columns to hide.
    states : Tensor, shape (1, L, C)
        The hidden states that the layer receives.
    """
    length = states.shape[1]
    if mask is None:
        mask = torch.ones(length, length, dtype=torch.bool, device=states.device).tril()[None, None]
    itself = torch.eye(length, dtype=torch.bool)
    hidden = (unseen[None, :] & ~itself).to(mask.device)
    low = False if mask.dtype == torch.bool else torch.finfo(mask.dtype).min
    return mask.masked_fill(hidden, low)
