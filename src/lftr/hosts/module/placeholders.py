"""The number of placeholders that code around a module writes into its prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ...values.budget import Keep, resolve
from ...values.errors import ArgumentError


@dataclass(frozen=True, eq=False)
class Placeholders:
    """An attribute that holds the number of placeholders for each row of a module's tokens.

    Parameters
    ----------
    owner : object
        What has the attribute.
    name : str
        The attribute's name, ``"num_image_token"`` for InternVL.
    full : int
        Its value without a reduction.
    kept : int
        Its value under the reduction.
    """

    owner: Any
    name: str
    full: int
    kept: int

    @classmethod
    def of(
        cls, place: object, keep: Keep | Literal["auto"], others: Sequence[Placeholders]
    ) -> Placeholders:
        """Read the attribute that a caller named as ``(owner, name)``.

        ``others`` are those of reductions that are attached, and may have changed the attribute.
        """
        allowed = "(object, name) of an attribute that holds the number of placeholders, or ()"
        if not isinstance(place, tuple) or len(place) != 2 or not isinstance(place[1], str):
            raise ArgumentError.of("placeholders", place, allowed)
        owner, name = place
        attribute = f"({type(owner).__name__}, {name!r})"
        changed = [other.full for other in others if other.place == (id(owner), name)]
        full = changed[0] if changed else getattr(owner, name, None)
        if not isinstance(full, int) or full < 1:
            raise ArgumentError.of("placeholders", f"{attribute}, which holds {full!r}", allowed)
        if keep == "auto":
            raise ArgumentError.of("keep", keep, "a ratio or a count: placeholders come first")
        try:
            setattr(owner, name, getattr(owner, name))
        except AttributeError:
            raise ArgumentError.of(
                "placeholders", attribute, "an attribute that can be set"
            ) from None
        return cls(owner, name, full, resolve(keep, full))

    @property
    def place(self) -> tuple[int, str]:
        """What is equal for two objects that are for the same attribute."""
        return id(self.owner), self.name

    def check(self, count: int) -> None:
        """Raise an error if a row of the module has another number of tokens."""
        if count != self.full:
            raise ArgumentError.of(
                "placeholders",
                f"{type(self.owner).__name__}.{self.name} of {self.full}",
                f"the number of tokens that the module returns for each row, {count}",
            )
