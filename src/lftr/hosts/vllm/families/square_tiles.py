"""Images that are cut into tiles of equal squares, all in one batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from itertools import accumulate
from typing import ClassVar, Self

from torch import Tensor

from ...layout import Layout
from ..model.encoder_inputs import EncoderInputs


class SquareTiles(EncoderInputs):
    """Images, each of one tile or several, of which all have as many tokens."""

    count_field: ClassVar[str]
    """The argument with the number of tiles of each image."""
    tile_fields: ClassVar[Sequence[str]]
    """The arguments that have a row for each tile."""
    item_fields: ClassVar[Sequence[str]] = ()
    """Further arguments that have a row for each image; others belong to the whole call."""

    @property
    def tile_size(self) -> int:
        """Number of tokens of a tile."""
        raise TypeError(f"{type(self).__name__} must define tile_size")

    @cached_property
    def counts(self) -> list[int]:
        """Number of tiles of each image."""
        return [int(count) for count in self.inputs[self.count_field]]

    @property
    def sizes(self) -> list[int]:
        """Number of tokens of all tiles."""
        return [count * self.tile_size for count in self.counts]

    def part(self, start: int, stop: int) -> Self:
        """Return items ``start`` to ``stop`` and their tiles."""
        ends = list(accumulate(self.counts, initial=0))
        tiles, items = slice(ends[start], ends[stop]), slice(start, stop)
        rows = dict.fromkeys(self.tile_fields, tiles)
        rows |= dict.fromkeys((self.count_field, *self.item_fields), items)
        return replace(
            self, inputs={**self.inputs, **{n: self.inputs[n][s] for n, s in rows.items()}}
        )

    def layouts(self) -> list[Layout]:
        """Return each image's tiles."""
        tile = Layout.square(self.tile_size).tiles
        return [Layout(None if tile is None else tile * count) for count in self.counts]

    def by_item(self, views: Tensor) -> list[Tensor]:
        """Split values of tiles by images."""
        return list(views.split(self.counts))
