"""The common part of all reductions: attach, detach, attach again."""

from __future__ import annotations

import threading
import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Self

from ..values.errors import LftrError

_lock = threading.Lock()


class Attached(ABC):
    """A reduction that is attached to a model or a module when it is constructed.

    `remove` detaches it, and so does the end of a ``with`` block (of nested blocks, the outermost).
    A later block attaches it again, above the reductions that are attached by then. While it is
    attached, it belongs to the thread that attached it: another thread's blocks are refused, since
    their end would detach it while the first thread uses it.
    """

    _blocks = 0  # that are open
    _warned = False  # of a reduction that was not removed
    _owner: threading.Thread | None = None

    @property
    @abstractmethod
    def on(self) -> bool:
        """Whether the reduction is attached."""

    def _begin(self) -> None:
        """Attach the reduction, which from now on belongs to this thread."""
        self._attach()
        self._owner = threading.current_thread()

    @abstractmethod
    def _attach(self) -> None:
        """Attach the reduction; called only while it is detached."""

    @abstractmethod
    def _detach(self) -> None:
        """Detach the reduction; called only while it is attached."""

    def remove(self) -> None:
        """Detach the reduction; a second call does nothing."""
        if self.on:
            self._detach()

    def _warn_of_replaced(self, attached: Sequence[Attached]) -> None:
        """Warn, once, if this reduction acts in place of one that its owner may have forgotten.

        Parameters
        ----------
        attached : sequence of Attached
            All reductions that are attached, this one last. With either of two in a ``with`` block,
            the user sees where the replacement ends.
        """
        if len(attached) < 2 or self._blocks or self._warned:
            return
        if forgotten := [one for one in attached[:-1] if not one._blocks]:
            self._warned = True
            warnings.warn(
                f"{self} acts in place of {forgotten[-1]}, which was never removed: of several "
                "reductions the last one acts alone. Remove the former one (its remove(), "
                "lftr.restore, or a with block); to compose methods, give lftr.reduce all of them "
                'in one call, such as ["lftr", "fastv"]',
                stacklevel=3,
            )

    def __enter__(self) -> Self:
        thread = threading.current_thread()
        with _lock:
            if not self.on:
                self._begin()
            elif self._owner is not thread and self._owner is not None and self._owner.is_alive():
                raise LftrError(
                    f"{self} was attached by another thread, which still runs; call the model "
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
        """Return the attributes of a copy: all but the thread, which cannot be copied."""
        return {name: value for name, value in vars(self).items() if name != "_owner"}
