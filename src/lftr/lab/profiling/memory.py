"""The most memory that a piece of code holds at once, above what was held before."""

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
    """What was held at most; ``bytes`` is there when the block has ended."""

    bytes: int = 0


@contextmanager
def peak_memory(device: torch.device) -> Iterator[Peak]:
    """Measure the most memory that the block holds above what was held when it began.

    On a GPU from the statistics of torch's CUDA allocator. On a CPU, which keeps no such
    statistics and whose resident size hides behind memory freed earlier, by adding up the tensors
    that operators make while they live; scratch memory inside a kernel is not seen there.
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
    """Say in a few words where `peak_memory` has its figures from."""
    return "CUDA allocator" if device.type == "cuda" else "tensors alive, by their storages"


class _Living(TorchDispatchMode):
    """Adds up the storages that operators make, while they live."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.most = 0
        self._held = 0
        self._known: dict[int, weakref.finalize[Any, Any]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        given = {id(s) for s in _storages([args, kwargs])}
        output = func(*args, **(kwargs or {}))
        for storage in _storages(output):
            if id(storage) not in given and id(storage) not in self._known:
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
