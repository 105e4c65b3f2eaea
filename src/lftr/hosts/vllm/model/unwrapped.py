"""Modules of a model as they are before LoRA wraps them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import nn


class Unwrapped:
    """Remembers modules when the model is made, and puts them back while they are used.

    LoRA replaces modules by wrappers, which add what the adapters of the current step's tokens make
    of as many rows, and cannot take more rows than a step has tokens. An item is encoded for all
    adapters, so what is read of the language model for it is read without them.

    Parameters
    ----------
    part : nn.Module
        The part of the model in which modules are remembered.
    wanted : callable, optional
        Which of its modules; by default all.
    """

    def __init__(self, part: nn.Module, wanted: Callable[[nn.Module], bool] | None = None) -> None:
        self._places = [
            (owner, name, module)
            for owner in part.modules()
            for name, module in owner.named_children()
            if wanted is None or wanted(module)
        ]

    @property
    def modules(self) -> set[nn.Module]:
        """The modules that are remembered."""
        return {module for _, _, module in self._places}

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Have the modules as they were while the body runs."""
        wrapped = [getattr(owner, name) for owner, name, _ in self._places]
        try:
            for owner, name, module in self._places:
                setattr(owner, name, module)
            yield
        finally:
            for (owner, name, _), module in zip(self._places, wrapped, strict=True):
                setattr(owner, name, module)
