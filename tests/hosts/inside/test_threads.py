"""Several threads in one reduced model: what one reads and drops, no other notices."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn

import lftr
from lftr.evidence.attention import attention_modules
from lftr.hosts.transformers.families import family_of
from lftr.methods.inside.schedules import Exit, Schedule

from ..support import SQUARE, WIDE, Prompt, ZooEntry, interleaved
from .support import INSIDE, first_layer, methods_for, skips_for


@dataclass(frozen=True)
class Watching(lftr.LayerMethod):
    """Drops everything where the last token pays the image less than it does on average."""

    reads: Any = "own"
    schedule: Schedule = Exit(1.0)

    def watches(self, depth: int) -> frozenset[int]:
        return frozenset(range(1, depth))

    def count(self, view: Any, planned: int) -> int:
        seen = float(view.received(view.last).sum())
        return planned if seen > len(view.visual) / (2 * len(view.states)) else 0


def methods(entry: ZooEntry) -> dict[str, lftr.LayerMethod]:
    """A method for every way in which something is read or cached beside the layers' own run."""
    found = {name: methods_for(entry)[name] for name in ("previous", "own")}
    found |= {f"watching {reads}": Watching(reads) for reads in ("previous", "own")}
    return found | {"frozen": skips_for(entry)["frozen"]}


def projection(entry: ZooEntry, model: Any, layer: int) -> nn.Module:
    """A part of a layer's attention that runs before the kernel: of the keys, where it is apart."""
    layers: Any = family_of(model).decoder(model)
    mixer = next(iter(attention_modules(layers.layers[layer])), layers.layers[layer])
    own = getattr(mixer, "k_proj", None)
    return (
        next(part for part in mixer.modules() if isinstance(part, nn.Linear))
        if own is None
        else own
    )


@contextmanager
def on(model: Any, method: lftr.LayerMethod) -> Iterator[Any]:
    """The reduction, or a skip with the reason why this family refuses it."""
    try:
        reduction = lftr.reduce(model, method)
    except lftr.LftrError as refusal:
        pytest.skip(str(refusal))
    with reduction:
        yield reduction


@pytest.mark.parametrize("kind", list(methods(INSIDE[0])))
@pytest.mark.parametrize("entry", INSIDE, ids=str)
def test_a_call_within_a_call(entry: ZooEntry, kind: str) -> None:
    """While one thread is inside a layer's attention, another thread's whole call goes through."""
    prompt, other = Prompt(entry, [WIDE]), Prompt(entry, [SQUARE])
    with on(prompt.model, methods(entry)[kind]):
        try:
            expected = prompt.generate(2), other.generate(1)
        except lftr.LftrError as refusal:
            pytest.skip(str(refusal))
        for layer in sorted({max(first_layer(entry) - 1, 0), first_layer(entry)}):
            with interleaved(
                projection(entry, prompt.model, layer), lambda: other.generate(1)
            ) as others:
                found = prompt.generate(2)
            for output in others:
                assert not isinstance(output, Exception), traceback.format_exception(output)
                assert same(output, expected[1])
            assert same(found, expected[0])


def same(left: Any, right: Any) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left.logits, right.logits, strict=True))
