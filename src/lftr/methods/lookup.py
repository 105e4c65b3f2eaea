"""Find methods by name: those of this package, and those that other packages register."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Mapping
from importlib import metadata
from typing import Any, Literal

from ..options.calls import is_call, plain_of
from ..options.named import Named
from ..options.plain import classes_of, from_plain
from ..values.errors import ArgumentError
from .base import Method
from .inside.base import LayerMethod

GROUP = "lftr.methods"
"""Entry points of this group are loaded before a name is looked up; classes in them register."""
KINDS: dict[str, Any] = {"before": Method, "inside": LayerMethod}


@functools.cache
def load_plugins() -> None:
    """Load the methods of other packages; if one cannot be loaded, warn and go on without it."""
    for point in metadata.entry_points(group=GROUP):
        registries = (Named.taken, *(kind.registry for kind in KINDS.values()))
        before = [dict(registry) for registry in registries]
        try:
            point.load()
        except Exception as error:
            for registry, known in zip(registries, before, strict=True):
                registry.clear()
                registry.update(known)
            warnings.warn(
                f"the methods of the entry point {point.name!r} ({point.value}) are left out: "
                f"{type(error).__name__}: {error}",
                stacklevel=4,
            )


def list_methods(where: Literal["before", "inside"] | None = None) -> list[str]:
    """Return the names that `get_method` takes, sorted.

    Parameters
    ----------
    where : {"before", "inside"}, optional
        Only the methods that decide before the language model, or inside it.
    """
    if where not in (None, *KINDS):
        raise ArgumentError.of("where", where, " or ".join(map(repr, KINDS)))
    load_plugins()
    kinds = KINDS if where is None else [where]
    return sorted(name for kind in kinds for name in KINDS[kind].registry)


def get_method(name: str, **options: object) -> Any:
    """Return the method of that name with the given options, a `Method` or a `LayerMethod`.

    Parameters
    ----------
    name : str
        A name that `list_methods` returns, or a method as reports print it, with options in
        parentheses: ``"lftr(diversity=0.5)"``, ``"Merge(divprune)"``; see `lftr.options.calls`.

    Raises
    ------
    ArgumentError
        If the name or an option is unknown (the message gives the nearest ones), or an option's
        value is out of its range.
    """
    names = list_methods()
    if is_call(name):
        return from_plain(plain_of(name, options))
    if name not in names:
        if name in classes_of("method"):
            raise ArgumentError.of("method", name, f"its options too, such as {example_of(name)}")
        raise ArgumentError.unknown("method", str(name), names)
    cls = next(kind.registry[name] for kind in KINDS.values() if name in kind.registry)
    known = list(inspect.signature(cls).parameters)
    for option in options:
        if option not in known:
            raise ArgumentError.unknown(f"option of method {name!r}", option, known)
    return cls(**options)


def example_of(name: str) -> str:
    """Return an example that `get_method` takes; a composition's gets methods inside it."""
    cls = classes_of("method").get(name) if list_methods() else None
    if cls is None or cls.name:
        return name
    parameters = inspect.signature(cls).parameters.values()
    required = sum(one.default is one.empty for one in parameters)
    inner = "fastv" if issubclass(cls, LayerMethod) else "divprune"
    return f"{name}({', '.join([inner] * required)})"


def method_from_plain(value: Any) -> Any:
    """Return the method of a preset: a text as `get_method` takes it, or a mapping.

    The mapping has ``method`` and ``options``.
    """
    if isinstance(value, str):
        return get_method(value)
    load_plugins()
    if isinstance(value, Mapping) and is_call(value.get("method")):
        value = {**value, **plain_of(value["method"], value.get("options", {}))}
    return from_plain(value)


def as_method(value: object, argument: str = "method") -> Method:
    """Return the method before the language model that an argument names, or is."""
    method = get_method(value) if isinstance(value, str) else value
    if not isinstance(method, Method):
        allowed = "a name from lftr.list_methods('before') or a lftr.Method" + _mistake(method)
        raise ArgumentError.of(argument, value, allowed)
    return method


def as_layer_method(value: object, argument: str) -> LayerMethod:
    """Return the method inside the language model that an argument names, or is."""
    method = get_method(value) if isinstance(value, str) else value
    if not isinstance(method, LayerMethod):
        allowed = "a name from lftr.list_methods('inside') or a lftr.LayerMethod" + _mistake(method)
        raise ArgumentError.of(argument, value, allowed)
    return method


def _mistake(value: object) -> str:
    """Return what is wrong with a value that looks like a method, for the end of a message."""
    if isinstance(value, type) and issubclass(value, Method | LayerMethod):
        return f"; this is a class, whose object is {value.__name__}()"
    if isinstance(value, LayerMethod):
        return "; this method decides inside the language model"
    if isinstance(value, Method):
        return "; this method decides before the language model"
    return ""
