"""What every reduction has in common: it is laid on, taken off, and can be laid on again."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from typing import Any, Self

from ...errors import LftrError

_lock = threading.Lock()


class Attached(ABC):
    """Something that is laid on a model or a module while it is made.

    `remove` takes it off, and so does the end of a ``with`` block; where blocks of one object are
    nested, the end of the outermost. A later block lays it on again, above what is there by then.
    While it is on, it belongs to the thread that laid it on: blocks of another one are refused,
    since their end would take it off under the first.
    """

    _blocks = 0  # that are open
    _owner: threading.Thread | None = None

    @property
    @abstractmethod
    def on(self) -> bool:
        """Whether it is laid on."""

    def _begin(self) -> None:
        """Lay it on, as this thread's."""
        self._lay_on()
        self._owner = threading.current_thread()

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
        thread = threading.current_thread()
        with _lock:
            if not self.on:
                self._begin()
            elif self._owner is not thread and self._owner is not None and self._owner.is_alive():
                raise LftrError(
                    f"{self} was laid on by another thread, which is still running; ask the model "
                    "from this thread without a with block, or end the reduction there first"
                )
            self._owner = thread
            self._blocks += 1
        return self

    def __exit__(self, *error: object) -> None:
        self._blocks -= 1
        if not self._blocks:
            self.remove()

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy is made of: it is no thread's, and threads cannot be copied."""
        return {name: value for name, value in vars(self).items() if name != "_owner"}
