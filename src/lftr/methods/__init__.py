"""Every method, one file each; a new file in this folder is found by itself.

`Then`, `Merge`, `Mix` and `Adaptive` make methods of other methods; they have no name of their own.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

from ..errors import ArgumentError
from .adaptive import Adaptive as Adaptive
from .base import Method
from .merge import Merge as Merge
from .mix import Mix as Mix
from .then import Then as Then

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

globals().update({cls.__name__: cls for cls in Method.registry.values()})


def __getattr__(name: str) -> Any:
    raise AttributeError(
        f"lftr.methods has no {name!r}; it has "
        + ", ".join(sorted(cls.__name__ for cls in Method.registry.values()))
    )


def list_methods() -> list[str]:
    """Return the names that `get_method` takes, sorted."""
    return sorted(Method.registry)


def get_method(name: str, **options: object) -> Method:
    """Return the method of that name with the given options.

    Raises
    ------
    ArgumentError
        If the name or an option is unknown (the message gives the nearest ones), or an option's
        value is out of its range.
    """
    if name not in Method.registry:
        raise ArgumentError.unknown("method", str(name), Method.registry)
    cls = Method.registry[name]
    known = [f.name for f in getattr(cls, "__dataclass_fields__", {}).values() if f.init]
    for option in options:
        if option not in known:
            raise ArgumentError.unknown(f"option of method {name!r}", option, known)
    return cls(**options)
