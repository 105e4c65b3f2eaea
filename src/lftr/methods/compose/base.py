"""The base class of methods that are made of other methods."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from ...values.budget import Keep
from ...values.selection import Selection
from ...values.tokens import VisualTokens
from ..base import Evidence, ImageMethod, Method
from ..inside.base import LayerMethod, LayerView, Reads
from ..inside.schedules import Schedule
from ..lookup import as_layer_method, as_method
from ..operations.composing import stacked
from ..operations.fitted import Fittable
from ..undeclared import call_declared


class Wrapper(Method):
    """A method made of others, each an object or a name. It needs the evidence that they need.

    Attributes
    ----------
    inside : tuple of str
        The fields that hold methods, in the order in which the methods decide.
    """

    inside: ClassVar[tuple[str, ...]] = ("inner",)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.inside:
            object.__setattr__(self, name, as_method(getattr(self, name), name))

    @property
    def methods(self) -> tuple[Method, ...]:
        """The methods inside, in the order in which they decide."""
        return tuple(getattr(self, name) for name in self.inside)

    @property
    def evidence(self) -> Evidence:
        return tuple(dict.fromkeys(need for method in self.methods for need in method.evidence))

    def allot(self, items: Sequence[VisualTokens], counts: Sequence[int]) -> list[int]:
        for method in self.methods:
            counts = method.allot(items, counts)
        return list(counts)


@dataclass(frozen=True)
class LayerWrapper(LayerMethod, spelled=False):
    """A method inside the language model made of another one, an object or a name.

    It looks and counts as that one does; a subclass changes what is selected.
    """

    inner: LayerMethod | str

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "inner", self.method)

    @property
    def method(self) -> LayerMethod:
        """The method inside."""
        return as_layer_method(self.inner, "inner")

    @property
    def schedule(self) -> Schedule:  # type: ignore[override]
        return self.method.schedule

    @property
    def reads(self) -> Reads:  # type: ignore[override]
        return self.method.reads

    @property
    def follows(self) -> bool:  # type: ignore[override]
        return self.method.follows

    @property
    def merges(self) -> bool:  # type: ignore[override]
        return self.method.merges

    def check(self, config: Any) -> None:
        self.method.check(config)

    def watches(self, depth: int) -> frozenset[int]:
        return self.method.watches(depth)

    def observe(self, view: LayerView) -> None:
        call_declared(self.method, self.method.observe, view)

    def count(self, view: LayerView, planned: int) -> int:
        return call_declared(self.method, self.method.count, view, planned)

    def select_inner(self, view: LayerView, keep: int) -> Selection:
        """Return what the method inside selects."""
        return call_declared(self.method, self.method.select, view, keep)

    def averaging(self, keep: Keep) -> Self:
        return dataclasses.replace(self, inner=self.method.averaging(keep))


def with_inner(method: Method) -> Iterator[Method]:
    """Yield a method and all methods inside it."""
    yield method
    for one in method.methods if isinstance(method, Wrapper) else ():
        yield from with_inner(one)


def encodes_again(method: Method) -> bool:
    """Whether a method, or one inside it, has the encoder run on a smaller image."""
    return any(isinstance(one, ImageMethod) for one in with_inner(method))


def is_fitted(method: Method) -> bool:
    """Whether a method, or one inside it, has a part that `lftr.fit` trained."""
    parts = (one.fitted for one in with_inner(method) if isinstance(one, Fittable))
    return any(part is not None for part in parts)


def decide(method: Method, tokens: VisualTokens, keep: int) -> Selection:
    """Let ``method`` decide for a stack; item by item if it overrides ``select``."""
    if type(method).select is Method.select:
        return method.select(tokens, keep)
    items = [tokens.item(i) for i in range(len(tokens.features))]
    return stacked([call_declared(method, method.select, item, keep) for item in items])
