"""The common part of all reductions: attach, detach, attach again."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Self


class Attached(ABC):
    """A reduction that is attached to a model or a module when it is constructed.

    `remove` detaches it, and so does the end of a ``with`` block (of nested blocks, the outermost).
    A later block attaches it again, above the reductions that are attached by then.
    """

    _blocks = 0  # that are open

    @property
    @abstractmethod
    def on(self) -> bool:
        """Whether the reduction is attached."""

    @abstractmethod
    def _lay_on(self) -> None:
        """Attach the reduction; called only while it is detached."""

    @abstractmethod
    def _take_off(self) -> None:
        """Detach the reduction; called only while it is attached."""

    def remove(self) -> None:
        """Detach the reduction; a second call does nothing."""
        if self.on:
            self._take_off()

    def __enter__(self) -> Self:
        if not self.on:
            self._lay_on()
        self._blocks += 1
        return self

    def __exit__(self, *error: object) -> None:
        self._blocks -= 1
        if not self._blocks:
            self.remove()
