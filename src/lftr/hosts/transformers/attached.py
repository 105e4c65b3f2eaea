"""What every reduction has in common: it is laid on, taken off, and can be laid on again."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Self


class Attached(ABC):
    """Something that is laid on a model or a module while it is made.

    `remove` takes it off, and so does the end of a ``with`` block; where blocks of one object are
    nested, the end of the outermost. A later block lays it on again, above what is there by then.
    """

    _blocks = 0  # that are open

    @property
    @abstractmethod
    def on(self) -> bool:
        """Whether it is laid on."""

    @abstractmethod
    def _lay_on(self) -> None:
        """Attach it; called where it is off."""

    @abstractmethod
    def _take_off(self) -> None:
        """Detach it; called where it is on."""

    def remove(self) -> None:
        """Take it off; a second time does nothing."""
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
