"""Classes under their former names, for one release."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping


def former_names(module: str, classes: Mapping[str, type]) -> Callable[[str], type]:
    """Return a module's ``__getattr__`` that looks classes up by their former names.

    It warns with a `DeprecationWarning` that says the present name.

    Parameters
    ----------
    module : str
        The name by which users import the module.
    classes : mapping of str to type
        The class of each former name.
    """

    def look_up(name: str) -> type:
        if name not in classes:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        present = classes[name]
        warnings.warn(
            f"{module}.{name} is called {present.__name__} now", DeprecationWarning, stacklevel=2
        )
        return present

    return look_up
