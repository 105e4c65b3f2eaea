"""What layer methods decide about one prompt, layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ....methods.inside.base import Heads, LayerMethod, LayerView
from ....values.errors import LftrError
from ....values.exact import exactly
from ....values.selection import Selection

# (layer, method, row of the batch) -> what was decided; None drops all
Decisions = dict[tuple[int, int, int], Selection | None]


@dataclass(frozen=True)
class Verdict:
    """What becomes of a prompt's tokens before a layer.

    Attributes
    ----------
    dropped : Tensor of int64
        Rows that go.
    changed : Tensor, optional
        The states of all rows, where tokens merged.
    weight : Tensor, optional
        How many tokens each row stands for, where that changed.
    """

    dropped: Tensor
    changed: Tensor | None
    weight: Tensor | None


class Prompt:
    """One row of the batch, with the plans and the memory of every method.

    Parameters
    ----------
    row : int
        Row of the batch.
    tokens : int
        Visual tokens that enter the language model.
    depth : int
        Its layers.
    first : int
        The first of them that can do with fewer; before it nothing is dropped, whatever is said.
    """

    def __init__(
        self, row: int, methods: Sequence[LayerMethod], tokens: int, depth: int, first: int
    ) -> None:
        self.row = row
        self.methods = methods
        self.tokens = tokens
        self.depth = depth
        self.first = first
        self.plans = [method.schedule.counts(tokens, depth) for method in methods]
        self.memories: list[dict[str, Any]] = [{} for _ in methods]
        self._gone = False
        self._before: int | None = None  # text in front of the visual tokens

    def _looks(self, number: int, method: int) -> bool:
        plan = self.plans[method]
        drops = number > 0 and plan[number] < plan[number - 1]
        return drops or number in self.methods[method].watches(self.depth)

    def _looking(self, number: int) -> list[int]:
        return [m for m in range(len(self.methods)) if self._looks(number, m)]

    def asked(self, number: int) -> bool:
        """Whether a method has to look before layer ``number``."""
        return not self._gone and bool(self._looking(number))

    def reads(self, number: int) -> set[str]:
        """Return whose attention is read before layer ``number``."""
        return {self.methods[m].reads for m in self._looking(number)}

    def layers_read(self, source: str) -> list[int]:
        """Return the layers before which attention of that source is read."""
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
        decisions: Decisions,
    ) -> Verdict | None:
        """Ask the methods in turn, each about what the ones before left.

        Parameters
        ----------
        states : Tensor, shape (L, C)
            As they enter the layer.
        visual : Tensor of bool, shape (L,)
            Which of them are visual tokens.
        weight : Tensor of float32, shape (L,)
            How many tokens each of them stands for.
        heads : mapping of str to Heads
            What `LayerMethod.reads` names, over the same rows.
        rotary : pair of Tensor, shape (L, d), optional
            Their cosines and sines.
        columns : Tensor of int64, shape (L,)
            Their columns in the call.
        decisions : dict
            Those to go by again; new ones are written down.

        Returns
        -------
        Verdict, optional
            Nothing where everything stays.
        """
        if self._before is None:  # the first visual tokens may go later on
            self._before = int(visual.int().argmax())
        live = torch.arange(len(states), device=states.device)
        merged = weighed = False
        for m in self._looking(number):
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
                    (~seen).nonzero().squeeze(1)[self._before :],
                    self.tokens,
                    None if source is None else source.at(live),
                    norm,
                    self.memories[m],
                    None if rotary is None else (rotary[0][live], rotary[1][live]),
                    columns[live],
                )
                with torch.no_grad(), exactly(states):  # decisions need no gradient
                    decisions[key] = self._ask(m, view)
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
            return Verdict(live[:0], *changes) if merged or weighed else None
        self._gone = not bool(visual[live].any())
        gone = torch.ones_like(visual)
        gone[live] = False
        return Verdict(gone.nonzero().squeeze(1), *changes)

    def _ask(self, m: int, view: LayerView) -> Selection | None:
        method, size = self.methods[m], len(view.visual)
        planned = min(self.plans[m][view.layer], size)
        method.observe(view)
        count = min(int(method.count(view, planned)), size)
        if view.layer < self.first or count == size:
            return Selection.everything(size)
        if count <= 0:
            return None
        return _checked(method, method.select(view, count), count, size)


def _checked(method: LayerMethod, choice: object, count: int, size: int) -> Selection:
    """Refuse what a method of somebody's own must not return."""
    if not isinstance(choice, Selection) or choice.batched or choice.count != count:
        raise LftrError(f"{method}: select returned {choice!r}, where {count} of {size} were asked")
    if int(choice.index[-1]) >= size:
        raise LftrError(f"{method}: select chose token {int(choice.index[-1])} of {size}")
    return choice
