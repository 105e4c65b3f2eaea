"""Every method, one file each; a new file in this folder is found by itself.

`Then`, `Merge`, `Mix`, `PerFrame` and `Adaptive` make methods of other methods; they have no name
of their own.
Methods made for videos are in `lftr.methods.video`, those that decide inside the language model in
`lftr.methods.inside`, and all of them here by name.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any, Literal

from ..values.errors import ArgumentError
from .base import Method
from .compose.adaptive import Adaptive as Adaptive
from .compose.merge import Merge as Merge
from .compose.mix import Mix as Mix
from .compose.per_frame import PerFrame as PerFrame
from .compose.then import Then as Then
from .inside import LayerMethod

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

KINDS: dict[str, Any] = {"before": Method, "inside": LayerMethod}
globals().update({cls.__name__: cls for kind in KINDS.values() for cls in kind.registry.values()})


def __getattr__(name: str) -> Any:
    classes = [cls.__name__ for kind in KINDS.values() for cls in kind.registry.values()]
    raise AttributeError(f"lftr.methods has no {name!r}; it has {', '.join(sorted(classes))}")


def list_methods(where: Literal["before", "inside"] | None = None) -> list[str]:
    """Return the names that `get_method` takes, sorted.

    Parameters
    ----------
    where : {"before", "inside"}, optional
        Only the methods that decide before the language model, or inside it.
    """
    if where not in (None, *KINDS):
        raise ArgumentError.of("where", where, " or ".join(map(repr, KINDS)))
    kinds = KINDS if where is None else [where]
    return sorted(name for kind in kinds for name in KINDS[kind].registry)


def get_method(name: str, **options: object) -> Any:
    """Return the method of that name with the given options, a `Method` or a `LayerMethod`.

    Raises
    ------
    ArgumentError
        If the name or an option is unknown (the message gives the nearest ones), or an option's
        value is out of its range.
    """
    if name not in list_methods():
        raise ArgumentError.unknown("method", str(name), list_methods())
    cls = next(kind.registry[name] for kind in KINDS.values() if name in kind.registry)
    known = [f.name for f in getattr(cls, "__dataclass_fields__", {}).values() if f.init]
    for option in options:
        if option not in known:
            raise ArgumentError.unknown(f"option of method {name!r}", option, known)
    return cls(**options)
