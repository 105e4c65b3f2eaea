"""Ground truth: the plain model on the full prompt, its layers' masks hiding what was dropped.

Hooks of this file's own on the plain model's decoder layers hide the dropped columns from every
query, put merged states in the place of their anchors, and hold frozen or bypassed tokens still.
Every step is the whole prompt anew, one unpadded row, without a cache. Nothing of lftr's host takes
part; what was chosen was written down by `Recorder`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import lftr
from lftr.methods.inside.base import LayerView

from ..oracle import full_positions, language_model, lengthened


class Recorder(lftr.LayerMethod):
    """Hands every question on to another layer method and writes down what it said."""

    def __init__(self, inner: lftr.LayerMethod) -> None:
        self.inner = inner
        self.schedule = inner.schedule
        self.reads = inner.reads
        self.follows = inner.follows
        self.views: list[LayerView] = []
        self.said: list[tuple[int, int, lftr.Selection | None]] = []

    def watches(self, depth: int) -> frozenset[int]:
        return self.inner.watches(depth)

    def observe(self, view: LayerView) -> None:
        self.views.append(view)
        self.inner.observe(view)

    def count(self, view: LayerView, planned: int) -> int:
        found = self.inner.count(view, planned)
        if found <= 0 < view.layer:
            self.said.append((view.layer, len(view.visual), None))
        return found

    def select(self, view: LayerView, keep: int) -> lftr.Selection:
        choice = self.inner.select(view, keep)
        self.said.append((view.layer, len(view.visual), choice))
        return choice


@dataclass
class Turn:
    """Columns of the images that came in one turn, and what was said of them."""

    columns: Tensor
    said: Sequence[tuple[int, int, lftr.Selection | None]]

    def alive(self, number: int) -> Tensor:
        """Columns of visual tokens that are alive in a layer, ascending."""
        columns = self.columns
        for layer, size, choice in self.said:
            if layer <= number:
                assert len(columns) == size
                columns = columns[:0] if choice is None else columns[choice.index]
        return columns

    def log_weight(self, number: int, length: int) -> Tensor:
        """The logarithms of how many tokens the columns stand for in a layer, `(length,)`."""
        weight = torch.ones(len(self.columns))
        for layer, _, choice in self.said:
            if layer <= number and choice is not None:
                weight = choice.inherited(weight)
            elif layer <= number:
                weight = weight[:0]
        return torch.zeros(length).index_copy(0, self.alive(number), weight.log())


@dataclass
class Truth:
    """The plain model under what a recorder wrote down about one row, turn by turn."""

    model: Any
    inputs: dict[str, Any]
    turns: Sequence[Turn]
    states: Sequence[str] = ()
    exponent: float = 1.0

    def logits(self, new: Sequence[int] = ()) -> Tensor:
        """Logits of the prompt's last column and of each of `new` after it."""
        longer, types = lengthened(self.model, self.inputs, new)
        places = full_positions(self.model, self.inputs, len(new))
        length = self.inputs["input_ids"].shape[1]
        with self.hiding(length + len(new)):
            call = longer | types | {"position_ids": places, "use_cache": False}
            with torch.no_grad():
                found = self.model.forward(**call).logits
        return found[0, length - 1 :]

    @contextmanager
    def hiding(self, length: int) -> Iterator[None]:
        """The plain model under what was said, for prompts of so many columns."""
        with ExitStack() as stack:
            for number, layer in enumerate(layers_of(self.model)):
                hooks = self._hooks(number, length)
                stack.callback(layer.register_forward_pre_hook(hooks[0], with_kwargs=True).remove)
                stack.callback(layer.register_forward_hook(hooks[1]).remove)
            yield

    def _hooks(self, number: int, length: int) -> tuple[Any, Any]:
        alive = torch.cat([turn.alive(number) for turn in self.turns])
        state = self.states[number] if self.states else "active"
        hidden = torch.zeros(length, dtype=torch.bool)
        for turn in self.turns:
            hidden[turn.columns] = True
        hidden[alive] = state == "bypassed"
        logs = sum(turn.log_weight(number, length) for turn in self.turns) * self.exponent
        before: list[Tensor] = []

        def enter(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            states = args[0] if args else kwargs.pop("hidden_states")
            if states.shape[1] != length:  # the full prompt, run to see what its embeddings are
                return (states, *args[1:]), kwargs
            for turn in self.turns:
                for at, _, choice in turn.said:
                    if at == number and choice is not None and choice.flow is not None:
                        seen = turn.alive(number - 1)
                        states = states.clone()
                        states[0, seen[choice.index]] = choice.apply(states[0, seen])
            before[:] = [states]
            mask = hide(kwargs.get("attention_mask"), hidden, states)
            if logs.any():
                low = torch.finfo(logs.dtype).min
                mask = torch.where(mask, 0.0, low) if mask.dtype == torch.bool else mask
                mask = mask + logs
            return (states, *args[1:]), {**kwargs, "attention_mask": mask}

        def leave(layer: nn.Module, args: Any, output: Any) -> Any:
            states = output[0] if isinstance(output, tuple) else output
            if state == "active" or states.shape[1] != length:
                return None
            still = states.clone()
            still[:, alive] = before[0][:, alive]
            return (still, *output[1:]) if isinstance(output, tuple) else still

        return enter, leave


def hide(mask: Tensor | None, hidden: Tensor, states: Tensor) -> Tensor:
    """The mask of a layer with columns hidden from every query but, so that none is empty, their
    own."""
    length = states.shape[1]
    if mask is None:
        mask = torch.ones(length, length, dtype=torch.bool).tril()[None, None]
    own = torch.eye(length, dtype=torch.bool)
    gone = hidden[None, :] & ~own
    low = False if mask.dtype == torch.bool else torch.finfo(mask.dtype).min
    return mask.masked_fill(gone, low)


def layers_of(model: Any) -> list[nn.Module]:
    """The plain model's decoder layers."""
    for module in language_model(model).modules():
        layers = getattr(module, "layers", None)
        if isinstance(layers, nn.ModuleList):
            return list(layers)
    raise AssertionError("no layers")
