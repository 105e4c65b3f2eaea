"""A cache of encoder outputs, for comparing several reductions on the same images and videos."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from ..api import Model
    from .encode import Encoded

EncodeFunction = Callable[[frozenset[str]], "Encoded"]

_caches: WeakKeyDictionary[Model, EncodeCache] = WeakKeyDictionary()


class EncodeCache:
    """The outputs of an encoder by its arguments, which stay alive as long as the cache."""

    def __init__(self) -> None:
        self._entries: dict[tuple[object, ...], tuple[Any, frozenset[str], Encoded]] = {}

    def encode(
        self, arguments: Mapping[str, Any], evidence: frozenset[str], run: EncodeFunction
    ) -> Encoded:
        """Return the cached output, or ``run`` the encoder with all evidence requested so far."""
        key = tuple((name, id(value)) for name, value in arguments.items())
        entry = self._entries.get(key)
        if entry is None or not evidence <= entry[1]:
            wanted = evidence if entry is None else evidence | entry[1]
            entry = (arguments, wanted, run(wanted))  # living arguments: no id is used again
            self._entries[key] = entry
        return _select_evidence(entry[2], evidence)


def _select_evidence(encoded: Encoded, evidence: frozenset[str]) -> Encoded:
    """Return the output with the requested evidence alone, without that of other methods."""
    fields = set(evidence)
    if {"visual_projected", "frame_features"} & evidence:  # computed from encoder_features
        fields.add("encoder_features")
    maps = {name: rows for name, rows in encoded.maps.items() if name in fields}
    frames = encoded.frames if "frame_features" in evidence else None
    return replace(encoded, maps=maps, frames=frames)


def encode_cache_of(model: Model) -> EncodeCache | None:
    """Return the cache of ``model`` inside `encode_once`, else None."""
    return _caches.get(model)


@contextmanager
def encode_once(model: Model) -> Iterator[None]:
    """Make reductions of ``model`` encode the same tensors once, to compare methods on them.

    The encoder's time in the reports is then that of the first. Not for training, and not where
    pixel values are changed in place.
    """
    before = _caches.get(model)
    _caches[model] = EncodeCache()
    try:
        yield
    finally:
        if before is None:
            del _caches[model]
        else:
            _caches[model] = before
