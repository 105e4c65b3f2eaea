"""Methods that hand every question on to another method and write down what it said."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..methods.base import Evidence, Method
from ..methods.inside.base import LayerMethod, LayerView
from ..selection import Selection
from ..tokens import VisualTokens

# before which layer, of how many visual tokens, and which of them stay (None: none)
Said = tuple[int, int, Selection | None]


class Recorder(Method):
    """Hands on to a method before the language model.

    Attributes
    ----------
    sizes : list of int
        Tokens of each item that the method was last asked about, in the order of the prompts.
    selections : list of Selection
        What it chose of them.
    """

    def __init__(self, inner: Method) -> None:
        self.inner = inner
        self.sizes: list[int] = []
        self.selections: list[Selection] = []

    @property
    def evidence(self) -> Evidence:
        """What the method needs."""
        return self.inner.evidence

    def auto_count(self, tokens: VisualTokens) -> list[int]:
        """Return the method's own numbers."""
        return self.inner.auto_count(tokens)

    def count(self, tokens: VisualTokens, keep: object) -> int:
        """Return how many tokens the method keeps."""
        return self.inner.count(tokens, keep)

    def allot(self, items: Sequence[VisualTokens], counts: Sequence[int]) -> list[int]:
        """Return how the method spreads a prompt's tokens over its items."""
        return self.inner.allot(items, counts)

    def select_all(self, items: Sequence[VisualTokens], counts: Sequence[int]) -> list[Selection]:
        """Return the method's choices, which are noted."""
        self.sizes = [item.count for item in items]
        self.selections = self.inner.select_all(items, counts)
        return self.selections


class LayerRecorder(LayerMethod):
    """Hands on to a method inside the language model.

    Attributes
    ----------
    said : list of Said
        Every decision since the recorder was made; of one prompt.
    """

    def __init__(self, inner: LayerMethod) -> None:
        self.inner = inner
        self.schedule = inner.schedule
        own: Any = self  # a class attribute elsewhere, but each recorder speaks for its own method
        own.reads = inner.reads
        self.said: list[Said] = []

    def check(self, config: Any) -> None:
        """Refuse what the method refuses."""
        self.inner.check(config)

    def watches(self, depth: int) -> frozenset[int]:
        """Return the layers that the method watches."""
        return self.inner.watches(depth)

    def count(self, view: LayerView, planned: int) -> int:
        """Return the method's count; that all tokens go is noted."""
        found = self.inner.count(view, planned)
        if found <= 0 < view.layer:
            self.said.append((view.layer, len(view.visual), None))
        return found

    def select(self, view: LayerView, keep: int) -> Selection:
        """Return the method's choice, which is noted."""
        choice = self.inner.select(view, keep)
        self.said.append((view.layer, len(view.visual), choice))
        return choice
