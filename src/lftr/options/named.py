"""Names: how methods of either kind are found and print themselves."""

from __future__ import annotations

from typing import Any, ClassVar

from ..values.errors import LftrError
from .calls import spell
from .plain import Plain


class Named(Plain, kind="method"):
    """Something found by a name that is given in its class statement, unique over all kinds."""

    name: ClassVar[str] = ""
    registry: ClassVar[dict[str, Any]] = {}
    taken: ClassVar[dict[str, type[Named]]] = {}

    def __init_subclass__(cls, *, name: str = "", **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.name = name
        if not name:
            return
        other = Named.taken.setdefault(name, cls)
        if (other.__module__, other.__qualname__) != (cls.__module__, cls.__qualname__):
            raise LftrError(f"a method named {name!r} exists: {other.__module__}.{other.__name__}")
        Named.taken[name] = cls.registry[name] = cls  # the same class again: a reloaded module

    def __str__(self) -> str:
        """Return the name with the options that are not at their defaults, see `spell`."""
        return spell(self)
