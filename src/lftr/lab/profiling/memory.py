"""The peak memory of a block of code, above what was allocated before."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


@dataclass
class Peak:
    """Peak memory; ``bytes`` is set when the block ends."""

    bytes: int = 0


@contextmanager
def peak_memory(device: torch.device) -> Iterator[Peak]:
    """Measure the peak memory of the block above what was allocated at its start.

    On a GPU by the statistics of torch's CUDA allocator. On a CPU there are no such statistics, and
    the resident size includes memory that was freed before; so the sizes of the tensors that
    operators create are added up while they live. Scratch memory inside kernels is not counted.
    """
    peak = Peak()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield peak
        torch.cuda.synchronize(device)
        peak.bytes = torch.cuda.max_memory_allocated(device) - before
        return
    with _Living() as living:
        yield peak
    peak.bytes = living.most


def source_of(device: torch.device) -> str:
    """Describe the source of the figures of `peak_memory`."""
    return "CUDA allocator" if device.type == "cuda" else "tensors alive, by their storages"


class _Living(TorchDispatchMode):
    """Adds up the storages that operators create, while they live."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.most = 0
        self._held = 0
        self._known: dict[int, weakref.finalize[Any, Any]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        inputs = {id(s) for s in _storages([args, kwargs])}
        output = func(*args, **(kwargs or {}))
        for storage in _storages(output):
            if id(storage) not in inputs and id(storage) not in self._known:
                self._enter(storage)
        return output

    def _enter(self, storage: torch.UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()
        self._held += size
        self.most = max(self.most, self._held)
        self._known[key] = weakref.finalize(storage, self._leave, key, size)
        self._known[key].atexit = False

    def _leave(self, key: int, size: int) -> None:
        self._held -= size
        del self._known[key]


def _storages(values: Any) -> list[torch.UntypedStorage]:
    return [leaf.untyped_storage() for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]
