"""What an encoder is given in one call: items of one medium, and what makes up their tokens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from torch import Tensor

from ...layout import Layout
from ...transformers.families import Medium


@dataclass(frozen=True)
class Given:
    """Images, or videos, in the arguments of a call.

    What an encoder's patches have to do with tokens is the same on transformers: the medium of that
    host is asked, and finds in vLLM's model the names that it knows.

    Parameters
    ----------
    model : nn.Module
        vLLM's.
    medium : Medium
        Which of its media.
    inputs : mapping
        The arguments.
    """

    model: Any
    medium: Medium
    inputs: Mapping[str, Any]

    @property
    def sizes(self) -> list[int]:
        """How many tokens each item has."""
        raise TypeError(f"{type(self).__name__} must define sizes")

    @property
    def packed(self) -> list[int] | None:
        """The lengths of the parts that attend to themselves alone, if all are one sequence."""
        return None

    def portions(self, most: int) -> Iterator[Self]:
        """Cut so that no portion but of one item has more than ``most`` tokens.

        vLLM bounds how many tokens come *out* of the encoder in a step; reduced, those can be of
        many more items than its memory was measured with.
        """
        start = total = 0
        for i, size in enumerate(self.sizes):
            if total and total + size > most:
                yield self.part(start, i)
                start, total = i, 0
            total += size
        yield self.part(start, len(self.sizes))

    def part(self, start: int, stop: int) -> Self:
        """Return items ``start`` to ``stop``."""
        return replace(self, inputs={n: rows[start:stop] for n, rows in self.inputs.items()})

    def layouts(self) -> list[Layout]:
        """Return how each item's tokens lie."""
        return self.medium.layouts(self.model, self.inputs, self.sizes)

    def to_tokens(self, patches: Tensor) -> list[Tensor]:
        """Carry maps over the encoder's patches to each item's tokens, see `Medium.to_tokens`."""
        found = self.medium.to_tokens(self.model, self.inputs, patches)
        return list(found.split(self.sizes))

    def by_item(self, views: Tensor) -> list[Tensor]:
        """Cut what there is of each view (a tile, a frame) into items."""
        counts = self.medium.views(self.model, self.inputs, self.sizes)
        return list(views.split(counts))
