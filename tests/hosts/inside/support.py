"""Layer methods for the tests of the layer host, and a reduced run with its truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import lftr
from lftr.methods.inside.base import LayerView
from lftr.methods.inside.schedules import Exit, Schedule, Skip, Stages, Step
from lftr.values.selection import Flow

from ..support import EVERY, HOSTED, NEW, Prompt, ZooEntry, assert_close
from .oracle import Recorder, Truth, Turn

# families whose layers can hold fewer tokens: they share no keys, and no indexer counts them
INSIDE = [e for e in HOSTED if not e.traits.sealed]
# linear-attention layers have no keys that a mask could hide
EVERY_MASKED = [e for e in EVERY if not e.traits.sealed and not e.traits.stateful]
MASKED = [e for e in EVERY_MASKED if e in HOSTED]


@dataclass(frozen=True)
class Own(lftr.LayerMethod):
    """What the last token attends to in the layer to come."""

    schedule: Schedule = Step(1, 0.4)
    reads = "own"

    def select(self, view: LayerView, keep: int) -> lftr.Selection:
        return lftr.Selection.top(view.received(view.last), keep)


@dataclass(frozen=True)
class Previous(Own):
    """The same in the layer before."""

    reads = "previous"


@dataclass(frozen=True)
class Text(Own):
    """What the text after the image attends to in the layer to come."""

    reads = "own text"

    def select(self, view: LayerView, keep: int) -> lftr.Selection:
        return lftr.Selection.top(view.received(view.asking), keep)


@dataclass(frozen=True)
class Unrotated(Own):
    """What the last token attends to in the layer before, without positions."""

    reads = "unrotated"


@dataclass(frozen=True)
class Merging(lftr.LayerMethod):
    """The longest states stay, and every other one flows into the first of them."""

    schedule: Schedule = Step(1, 0.4)

    def select(self, view: LayerView, keep: int) -> lftr.Selection:
        size = len(view.visual)
        index = lftr.Selection.top(view.states[view.visual].norm(dim=-1), keep).index
        slot = torch.zeros(size, dtype=torch.long)
        slot[index] = torch.arange(keep)
        weight = torch.where(slot == 0, 1 / (slot == 0).sum(), torch.tensor(1.0))
        return lftr.Selection(index, Flow(torch.arange(size), slot, weight))


@dataclass(frozen=True)
class Planned(lftr.LayerMethod):
    """A schedule that leaves nothing to choose."""

    schedule: Schedule


def first_layer(entry: ZooEntry) -> int:
    """The first layer that a family can do with fewer tokens in."""
    return max(1, entry.traits.deepstack)


def methods_for(entry: ZooEntry) -> dict[str, lftr.LayerMethod]:
    """Methods of every kind, from the family's first layer on."""
    first = first_layer(entry)
    two = Stages((first, first + 1), (0.6, 0.3)) if first + 1 < depth(entry) else Step(first, 0.4)
    return {
        "previous": Previous(two),
        "own": Own(Step(first, 0.4)),
        "merging": Merging(two),
        "exit": Planned(Exit(first)),
        "count": Own(Step(first, 1)),
    }


def skips_for(entry: ZooEntry) -> dict[str, lftr.LayerMethod]:
    """Schedules in which tokens rest."""
    first = first_layer(entry)
    return {
        "frozen": Planned(Skip("frozen", layers=(first,))),
        "bypassed": Planned(Skip("bypassed", layers=(first,))),
    }


def depth(entry: ZooEntry) -> int:
    return int(entry.model().config.get_text_config().num_hidden_layers)


def truth_of(prompt: Prompt, recorders: Sequence[Recorder], states: Sequence[str] = ()) -> Truth:
    """The plain model under what was recorded for the one row of a prompt."""
    inputs = prompt.inputs()
    said = sorted((one for r in recorders for one in r.said), key=lambda one: one[0])
    columns = prompt.visual(inputs["input_ids"][0]).nonzero().squeeze(1)
    return Truth(prompt.model, inputs, [Turn(columns, said)], states)


def assert_true(prompt: Prompt, recorder: Recorder, output: Any) -> None:
    """The logits of every step are the truth, and the prompt's ids are untouched."""
    ids = prompt.inputs()["input_ids"]
    length = ids.shape[1]
    assert torch.equal(output.sequences[:, :length], ids)
    new = output.sequences[0, length:].tolist()
    states = recorder.schedule.states(depth(prompt.entry))
    expected = truth_of(prompt, [recorder], states).logits(new[:-1])
    found = torch.stack([step[0] for step in output.logits])
    assert_close(prompt.entry, found, expected)
    assert expected.argmax(dim=-1).tolist() == new


def logits_of(output: Any, row: int) -> Tensor:
    return torch.stack([step[row] for step in output.logits])


__all__ = [
    "EVERY_MASKED",
    "INSIDE",
    "MASKED",
    "NEW",
    "Merging",
    "Own",
    "Planned",
    "Previous",
    "Prompt",
    "Recorder",
    "Text",
    "Unrotated",
    "assert_true",
    "depth",
    "first_layer",
    "logits_of",
    "methods_for",
    "skips_for",
    "truth_of",
]
