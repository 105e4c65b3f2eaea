"""The arguments of one call of an encoder: items of one medium, and how tokens are made of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from torch import Tensor

from ...layout import Layout
from ...transformers.families import Medium


@dataclass(frozen=True)
class EncoderInputs:
    """The images, or the videos, in the arguments of a call.

    How tokens are made of an encoder's patches is the same on transformers. The `Medium` of that
    host therefore computes it, since vLLM's model has the attributes that it reads.

    Parameters
    ----------
    model : nn.Module
        vLLM's model.
    medium : Medium
        Its images or its videos.
    inputs : mapping
        The arguments of the encoder.
    """

    model: Any
    medium: Medium
    inputs: Mapping[str, Any]

    @property
    def sizes(self) -> list[int]:
        """Number of tokens of each item."""
        raise TypeError(f"{type(self).__name__} must define sizes")

    @property
    def packed(self) -> list[int] | None:
        """The lengths of parts that attend only to themselves, if all items are one sequence."""
        return None

    def portions(self, most: int) -> Iterator[Self]:
        """Yield portions of at most ``most`` tokens, or of one item with more.

        vLLM limits how many tokens come *out* of the encoder in a step. After a reduction these can
        belong to many more items than those with which it measured the encoder's memory.
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
        """Return maps over the encoder's patches as maps over tokens, see `Medium.to_tokens`."""
        tokens = self.medium.to_tokens(self.model, self.inputs, patches)
        return list(tokens.split(self.sizes))

    def projected(self, rows: Tensor) -> list[Tensor]:
        """Return the projector's inputs as maps over tokens."""
        if self.medium.projector_sees_tokens:
            return list(rows.flatten(0, -2).split(self.sizes))
        return self.to_tokens(rows)

    def by_item(self, views: Tensor) -> list[Tensor]:
        """Split values that exist for each view (a tile, a frame) by items."""
        counts = self.medium.views(self.model, self.inputs, self.sizes)
        return list(views.split(counts))
