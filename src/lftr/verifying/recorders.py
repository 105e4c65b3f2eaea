"""Wrappers around methods that record the decisions of the method inside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..methods.base import Evidence, Method
from ..methods.inside.base import LayerMethod, LayerView
from ..methods.undeclared import call_declared
from ..values.selection import Selection
from ..values.tokens import VisualTokens

# before which layer, among how many visual tokens, and the choice (None: no token is kept)
LayerChoice = tuple[int, int, Selection | None]


class Recorder(Method):
    """Records a method before the language model.

    Attributes
    ----------
    sizes : list of int
        Number of tokens of each item in the method's last call, in the order of the prompts.
    selections : list of Selection
        The method's choice for each item.
    """

    def __init__(self, inner: Method) -> None:
        self.inner = inner
        self.sizes: list[int] = []
        self.selections: list[Selection] = []

    @property
    def evidence(self) -> Evidence:
        """The evidence that the method needs."""
        return self.inner.evidence

    def auto_count(self, tokens: VisualTokens) -> list[int]:
        """Return the counts that the method chooses with keep="auto"."""
        return self.inner.auto_count(tokens)

    def count(self, tokens: VisualTokens, keep: object) -> int:
        """Return how many tokens the method keeps."""
        return self.inner.count(tokens, keep)

    def allot(self, items: Sequence[VisualTokens], counts: Sequence[int]) -> list[int]:
        """Return how the method distributes a prompt's tokens over its items."""
        return self.inner.allot(items, counts)

    def select_all(self, items: Sequence[VisualTokens], counts: Sequence[int]) -> list[Selection]:
        """Return the method's choices and record them."""
        self.sizes = [item.count for item in items]
        self.selections = self.inner.select_all(items, counts)
        return self.selections


class LayerRecorder(LayerMethod):
    """Records a method inside the language model.

    Attributes
    ----------
    choices : list of LayerChoice
        All decisions since the recorder was constructed, about one prompt.
    """

    def __init__(self, inner: LayerMethod) -> None:
        self.inner = inner
        self.schedule = inner.schedule
        instance: Any = self  # these are class attributes of other methods
        instance.reads, instance.follows = inner.reads, inner.follows
        self.choices: list[LayerChoice] = []

    def check(self, config: Any) -> None:
        """Check the configuration as the method does."""
        self.inner.check(config)

    def watches(self, depth: int) -> frozenset[int]:
        """Return the layers that the method watches."""
        return self.inner.watches(depth)

    def observe(self, view: LayerView) -> None:
        """Let the method observe."""
        call_declared(self.inner, self.inner.observe, view)

    def count(self, view: LayerView, planned: int) -> int:
        """Return the method's count, and record it if no token stays."""
        count = self.inner.count(view, planned)
        if count <= 0 < view.layer:
            self.choices.append((view.layer, len(view.visual), None))
        return count

    def select(self, view: LayerView, keep: int) -> Selection:
        """Return the method's choice and record it."""
        choice = call_declared(self.inner, self.inner.select, view, keep)
        self.choices.append((view.layer, len(view.visual), choice))
        return choice
