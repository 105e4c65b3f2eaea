"""Base class of the suites: sequences whose examples are generated from a seed on access."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar, overload

from ...values.errors import ArgumentError

SPLITS = ("train", "validation", "test")
_ExampleType = TypeVar("_ExampleType", covariant=True)


@dataclass(frozen=True)
class Drawn(Sequence[_ExampleType], Generic[_ExampleType]):
    """``n`` examples, generated on access and reproducible.

    Example ``i`` depends on ``split``, ``seed`` and ``i`` alone. Categories take turns.

    Parameters
    ----------
    split : {"train", "validation", "test"}
        The splits share no seed and no handwritten digit.
    n : int
        Number of examples.
    seed : int
        Seed of the examples.
    """

    split: str = "test"
    n: int = 400
    seed: int = 0

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise ArgumentError.unknown("split", self.split, SPLITS)
        if self.n < 0:
            raise ArgumentError.of("n", self.n, "a whole number >= 0")
        if self.seed < 0:
            raise ArgumentError.of("seed", self.seed, "a whole number >= 0")

    def __len__(self) -> int:
        return self.n

    @overload
    def __getitem__(self, index: int) -> _ExampleType: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[_ExampleType]: ...
    def __getitem__(self, index: int | slice) -> _ExampleType | Sequence[_ExampleType]:
        if isinstance(index, slice):
            return [self._draw(i) for i in range(self.n)[index]]
        return self._draw(range(self.n)[index])

    def __iter__(self) -> Iterator[_ExampleType]:
        return (self._draw(i) for i in range(self.n))

    @abstractmethod
    def _draw(self, index: int) -> _ExampleType: ...
