"""The decisions of layer methods about one prompt, layer by layer."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ....methods.inside.base import Heads, LayerMethod, LayerView, Passage
from ....methods.undeclared import call_declared
from ....values.autocast import without_autocast
from ....values.errors import LftrError
from ....values.places import Places
from ....values.selection import Selection
from ...items import VisualItem, places_of

# (layer, method, row of the batch) -> what the method kept; None: nothing
Decisions = dict[tuple[int, int, int], Selection | None]


@dataclass(frozen=True)
class LayerDecision:
    """What the methods do to the L tokens of a prompt before a layer.

    Attributes
    ----------
    dropped : Tensor of int64, shape (D,)
        The tokens that are dropped.
    changed : Tensor, shape (L, C), optional
        The states of all tokens; None if no tokens merged.
    weight : Tensor of float32, shape (L,), optional
        How many tokens of the prompt each one stands for; None if that did not change.
    """

    dropped: Tensor
    changed: Tensor | None
    weight: Tensor | None


class PromptRow:
    """The methods' plans and memories for one row of the batch.

    Parameters
    ----------
    row : int
        Row of the batch.
    visual : Tensor of int64, shape (N,)
        The columns of the visual tokens that enter the language model.
    valid : Tensor of bool, shape (L,)
        The columns that are not padding.
    items : sequence of VisualItem
        The images and videos that the visual tokens belong to; empty where that is not known.
    depth : int
        Number of its layers.
    first : int
        The first layer before which tokens can be dropped. Before earlier layers all stay, even if
        a method's schedule plans fewer.
    """

    def __init__(
        self,
        row: int,
        methods: Sequence[LayerMethod],
        visual: Tensor,
        valid: Tensor,
        items: Sequence[VisualItem],
        depth: int,
        first: int,
    ) -> None:
        self.row = row
        self.methods = methods
        self.visual = visual
        self.items = items
        self.tokens = tokens = len(visual)
        self.depth = depth
        self.first = first
        self.plans = [method.schedule.counts(tokens, depth) for method in methods]
        self.memories: list[dict[str, Any]] = [{} for _ in methods]
        self._all_dropped = False
        self.text_before = int(valid[: visual[0]].sum())  # text tokens before the image

    @functools.cached_property
    def places(self) -> Places | None:
        """Where the visual tokens that enter the language model lie; None if that is not known."""
        if not self.items:
            return None
        places = places_of(self.items)
        if len(places.coordinates) != self.tokens:
            raise LftrError(
                f"the images and videos of row {self.row} have {len(places.coordinates)} tokens, "
                f"and the language model receives {self.tokens}"
            )
        return places

    def _places_at(self, columns: Tensor) -> Places | None:
        where = torch.searchsorted(self.visual, columns.to(self.visual.device))
        return None if self.places is None else self.places.at(where.to(columns.device))

    def _acts(self, number: int, method: int) -> bool:
        plan = self.plans[method]
        drops = number > 0 and plan[number] < plan[number - 1]
        return drops or number in self.methods[method].watches(self.depth)

    def _acting_methods(self, number: int) -> list[int]:
        return [m for m in range(len(self.methods)) if self._acts(number, m)]

    def decides(self, number: int) -> bool:
        """Whether a method has to decide or observe before layer ``number``."""
        return not self._all_dropped and bool(self._acting_methods(number))

    def reads(self, number: int) -> set[str]:
        """Return which attention is read before layer ``number``, see `LayerMethod.reads`."""
        return {self.methods[m].reads for m in self._acting_methods(number)}

    def follows(self, number: int) -> bool:
        """Whether a method uses passages before layer ``number``, see `LayerMethod.follows`."""
        return any(self.methods[m].follows for m in self._acting_methods(number))

    def layers_read(self, source: str) -> list[int]:
        """Return the layers before which that attention is read."""
        return [i for i in range(self.depth) if source in self.reads(i)]

    def decide(
        self,
        number: int,
        states: Tensor,
        visual: Tensor,
        weight: Tensor,
        heads: Mapping[str, Heads],
        norm: Callable[[Tensor], Tensor],
        rotary: tuple[Tensor, Tensor] | None,
        columns: Tensor,
        passages: tuple[Passage, Passage] | None,
        decisions: Decisions,
    ) -> LayerDecision | None:
        """Let the methods decide in turn, each about the tokens that the ones before it kept.

        Parameters
        ----------
        states : Tensor, shape (L, C)
            The hidden states that enter the layer.
        visual : Tensor of bool, shape (L,)
            Which of them are visual tokens.
        weight : Tensor of float32, shape (L,)
            How many tokens each of them stands for.
        heads : mapping of str to Heads
            The attention that `LayerMethod.reads` names, over the same tokens.
        rotary : pair of Tensor, shape (L, d), optional
            The cosines and sines of the tokens' positions.
        columns : Tensor of int64, shape (L,)
            The columns of the tokens in the call.
        passages : pair of Passage, optional
            What went through the attention and the MLP of the previous layer, of the same tokens.
        decisions : dict
            Decisions that are repeated; new ones are added to it.

        Returns
        -------
        LayerDecision, optional
            None if all tokens stay as they are.
        """
        live = torch.arange(len(states), device=states.device)
        merged = weighed = False
        for m in self._acting_methods(number):
            seen = visual[live]
            tokens = seen.nonzero().squeeze(1)
            if not len(tokens):
                break
            key = (number, m, self.row)
            if key not in decisions:
                source = heads.get(self.methods[m].reads)
                view = LayerView(
                    number,
                    self.depth,
                    states[live],
                    tokens,
                    (~seen).nonzero().squeeze(1)[self.text_before :],
                    self.tokens,
                    None if source is None else source.at(live),
                    norm,
                    self.memories[m],
                    None if rotary is None else _rotary_rows(rotary, live),
                    columns[live],
                    functools.partial(self._places_at, columns[live[tokens]]),
                    None if passages is None else (passages[0].at(live), passages[1].at(live)),
                )
                with torch.no_grad(), without_autocast(states):  # decisions need no gradient
                    decisions[key] = self._choose(m, view)
            choice = decisions[key]
            kept = tokens[:0] if choice is None else tokens[choice.index]
            if choice is not None and choice.flow is not None:
                states = states.clone() if not merged else states
                states[live[kept]] = choice.apply(states[live[tokens]])
                merged = True
            if choice is not None and not choice.plain:
                weight = weight if weighed else weight.clone()
                weight[live[kept]] = choice.inherited(weight[live[tokens]])
                weighed = True
            stays = ~seen
            stays[kept] = True
            live = live[stays]
        if len(visual) - 1 not in live[-1:].tolist():
            raise LftrError(
                "the prompt ends in visual tokens, and what would be predicted from the last of "
                "them was dropped: methods inside the language model need text after them"
            )
        changes = states if merged else None, weight if weighed else None
        if len(live) == len(visual):
            return LayerDecision(live[:0], *changes) if merged or weighed else None
        self._all_dropped = not bool(visual[live].any())
        dropped = torch.ones_like(visual)
        dropped[live] = False
        return LayerDecision(dropped.nonzero().squeeze(1), *changes)

    def _choose(self, m: int, view: LayerView) -> Selection | None:
        method, size = self.methods[m], len(view.visual)
        planned = min(self.plans[m][view.layer], size)
        call_declared(method, method.observe, view)
        count = min(int(call_declared(method, method.count, view, planned)), size)
        if view.layer < self.first or count == size:
            return Selection.everything(size)
        if count <= 0:
            return None
        return _check_choice(method, call_declared(method, method.select, view, count), count, size)


def _check_choice(method: LayerMethod, choice: object, count: int, size: int) -> Selection:
    """Return ``choice`` if it is a valid selection of ``count`` of ``size`` tokens."""
    if not isinstance(choice, Selection) or choice.batched or choice.count != count:
        raise LftrError(
            f"{method}: select returned {choice!r}, where {count} of {size} tokens have to stay"
        )
    if int(choice.index[-1]) >= size:
        raise LftrError(f"{method}: select chose token {int(choice.index[-1])} of {size}")
    if not (method.merges or choice.plain):
        raise LftrError(f"{method}: select merged tokens, where the class says merges = False")
    return choice


def _rotary_rows(rotary: tuple[Tensor, Tensor], live: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rows ``live`` of the rotary tables, on their device, which may be another."""
    cosines, sines = (table.to(live.device)[live] for table in rotary)
    return cosines, sines
