"""Methods, schedules and merges as plain values for files, and back; nested ones too."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar
from weakref import WeakSet

from ..values.errors import ArgumentError
from .checks import fields_of, rules_of

_UNSPELLED: WeakSet[type[Plain]] = WeakSet()


class Plain:
    """A value that files and the command line can name, with its dataclass fields as options.

    What the fields' types declare, see `lftr.options.checks`, is checked when one is made, before
    a ``__post_init__`` of the class.

    A base class gives its kind in the class statement (``kind="schedule"``); its subclasses are of
    that kind. ``spelled=False`` there means that no file and no command line can name this class,
    though its subclasses can be named: it is a base of others, or made in one place alone.

    Attributes
    ----------
    kinds : dict
        The base class of every kind, by the key under which plain values name it.
    """

    kinds: ClassVar[dict[str, type[Plain]]] = {}

    def __init_subclass__(cls, *, kind: str = "", spelled: bool = True, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        if kind:
            Plain.kinds[kind] = cls
        if not spelled:
            _UNSPELLED.add(cls)
        if "__post_init__" in vars(cls):
            cls.__post_init__ = _after_the_check(cls.__post_init__)  # type: ignore[method-assign]

    def __post_init__(self) -> None:
        """Refuse options that their types do not allow, if no subclass has a check of its own."""
        if type(self).__post_init__ is Plain.__post_init__:
            _check_options(self)


def _check_options(value: Plain) -> None:
    for name, rule in rules_of(type(value)).items():
        rule.check(name, getattr(value, name))


def _after_the_check(post_init: Callable[..., None]) -> Callable[..., None]:
    """Check the declared options first, whether or not a class's own function calls ``super``."""

    @functools.wraps(post_init)
    def checked(self: Plain, *args: Any) -> None:
        if type(self).__post_init__ is checked:  # once, by that of the class itself
            _check_options(self)
        post_init(self, *args)

    return checked


def kind_of(cls: type) -> str | None:
    """Return the kind that a class is of; None for other classes."""
    return next((kind for kind, base in Plain.kinds.items() if issubclass(cls, base)), None)


def to_plain(value: Any) -> Any:
    """Return a method as ``{"method": name, "options": {...}}``, or an option's value as JSON can.

    Raises
    ------
    ArgumentError
        If an option is no method, schedule, merge, text, number, bool or None, nor a sequence of
        them.
    """
    if isinstance(value, float) and math.isinf(value):
        return str(value)  # JSON has no infinity
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [to_plain(one) for one in value]
    kind = kind_of(type(value))
    if kind is not None:
        return {kind: name_of(type(value)), "options": _options(value)}
    raise ArgumentError.of("option", value, "values that JSON has, methods, schedules and merges")


def from_plain(value: Any) -> Any:
    """Return what `to_plain` was given; lists become tuples, as options hold them.

    Raises
    ------
    ArgumentError
        If a method, a schedule or an option is unknown, or a value is out of its range.
    """
    if isinstance(value, list):
        return tuple(from_plain(one) for one in value)
    if value in ("inf", "-inf"):
        return float(value)
    if not isinstance(value, Mapping):
        return value
    kind = next((kind for kind in Plain.kinds if kind in value), None)
    if kind is None or not set(value) <= {kind, "options"}:
        raise ArgumentError.of(
            "method", dict(value), f"{' or '.join(Plain.kinds)}, with its options"
        )
    classes = classes_of(kind)
    name, options = value[kind], value.get("options", {})
    if not isinstance(name, str) or name not in classes:
        raise ArgumentError.unknown(kind, str(name), classes)
    if not isinstance(options, Mapping):
        raise ArgumentError.of("options", options, "an object of names and values")
    known = list(inspect.signature(classes[name]).parameters)
    for option in options:
        if option not in known:
            raise ArgumentError.unknown(f"option of {kind} {name!r}", option, known)
    try:
        return classes[name](**{option: from_plain(one) for option, one in options.items()})
    except TypeError as error:
        raise ArgumentError.of("options", dict(options), f"those of {name}: {error}") from None


def classes_of(kind: str) -> dict[str, type[Any]]:
    """Return the classes of a kind that can be named, by their own name or the class's."""
    by_name: dict[str, type[Any]] = {}
    waiting: list[type[Any]] = [Plain.kinds[kind]]
    while waiting:
        cls = waiting.pop()
        waiting += cls.__subclasses__()
        if cls in _UNSPELLED:
            continue
        if getattr(cls, "name", "") or dataclasses.is_dataclass(cls):
            by_name[name_of(cls)] = cls
    return by_name


def name_of(cls: Any) -> str:
    """Return the name of a class in files and on the command line: its own, or the class's."""
    return str(getattr(cls, "name", "") or cls.__name__)


def _options(value: Any) -> dict[str, Any]:
    return {field.name: to_plain(getattr(value, field.name)) for field in fields_of(value)}
