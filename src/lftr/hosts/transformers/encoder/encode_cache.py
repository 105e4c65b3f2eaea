"""Encoding the same images and videos once, where several reductions of them are compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from ..api import Model
    from .encode import Encoded

Run = Callable[[frozenset[str]], "Encoded"]

_memories: WeakKeyDictionary[Model, Memory] = WeakKeyDictionary()


class Memory:
    """What an encoder returned for the tensors that it was given, while they are held here."""

    def __init__(self) -> None:
        self._held: dict[tuple[object, ...], tuple[Any, frozenset[str], Encoded]] = {}

    def recall(self, arguments: Mapping[str, Any], evidence: frozenset[str], run: Run) -> Encoded:
        """Return what was encoded before, or ``run`` with all the evidence asked for so far."""
        key = tuple((name, id(value)) for name, value in arguments.items())
        held = self._held.get(key)
        if held is None or not evidence <= held[1]:
            wanted = evidence if held is None else evidence | held[1]
            held = (arguments, wanted, run(wanted))  # arguments stay alive, so ids stay theirs
            self._held[key] = held
        return _only(held[2], evidence)


def _only(encoded: Encoded, evidence: frozenset[str]) -> Encoded:
    """Leave out what was gathered for another method, so that none sees more than it asked for."""
    shown = set(evidence)
    if {"visual_projected", "frame_features"} & evidence:  # made of them
        shown.add("encoder_features")
    maps = {name: rows for name, rows in encoded.maps.items() if name in shown}
    frames = encoded.frames if "frame_features" in evidence else None
    return replace(encoded, maps=maps, frames=frames)


def memory_of(model: Model) -> Memory | None:
    """Return the memory that is on for ``model``."""
    return _memories.get(model)


@contextmanager
def encode_once(model: Model) -> Iterator[None]:
    """Let reductions of ``model`` encode the same tensors once, to compare methods on them.

    The encoder's time in the reports is then that of the first. Not for training, and not where
    pixel values are changed in place.
    """
    before = _memories.get(model)
    _memories[model] = Memory()
    try:
        yield
    finally:
        if before is None:
            del _memories[model]
        else:
            _memories[model] = before
