"""What the type of an option declares of its values: words, numbers in a range, true or false.

``Literal["a", "b"]`` allows those words, ``Annotated[float, Range(0.0, 1.0)]`` real numbers and
``Annotated[int, Range(1)]`` whole numbers in a range, ``bool`` True and False alone. ``| None``
allows None as well, other types of a union their instances; a sequence, such as
``tuple[Annotated[int, Range(1)], ...]``, declares its elements. Declarations elsewhere, such as in
a mapping's values, are not checked.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
import warnings
import weakref
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from typing import Annotated, Any, Literal, Union

from ..values.errors import ArgumentError, LftrError


@dataclasses.dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``, both included, as part of an option's type.

    ``Annotated[float, Range(0.0, 1.0)]`` allows real numbers, ``Annotated[int, Range(1)]`` whole
    ones. A method, a schedule or an encoder merge checks its options when it is made.

    Parameters
    ----------
    low, high : float
        The smallest and the largest number allowed; by default there is no largest.
    """

    low: float
    high: float = math.inf


@dataclasses.dataclass(frozen=True)
class Needs:
    """Evidence without which an option has no effect, as part of its type.

    Parameters
    ----------
    field : str
        A field of `lftr.VisualTokens`.
    """

    field: str


@dataclasses.dataclass(frozen=True)
class Rule:
    """Which values a type declares as allowed.

    Attributes
    ----------
    allowed : str
        Those values in words, for messages and lists.
    accepts : callable
        Whether a value is one of them.
    element : Rule, optional
        The rule of the elements, where the type is a sequence.
    """

    allowed: str
    accepts: Callable[[Any], bool]
    element: Rule | None = None

    def check(self, name: str, value: Any) -> None:
        """Raise `ArgumentError` unless ``value`` is allowed; of a sequence, name the element."""
        if self.element is not None and _is_sequence(value):
            for one in value:
                self.element.check(name, one)
        elif not self.accepts(value):
            raise ArgumentError.of(name, value, self.allowed)


_RULES: weakref.WeakKeyDictionary[type, dict[str, Rule]] = weakref.WeakKeyDictionary()


def check(name: str, value: object, hint: Any) -> None:
    """Raise `ArgumentError` unless the type ``hint`` allows ``value``."""
    rule = rule_of(hint)
    if rule is not None:
        rule.check(name, value)


def rule_of(hint: Any) -> Rule | None:
    """Return what a type declares of its values, or None if it declares nothing.

    Raises
    ------
    LftrError
        If a `Range` is given to a type other than ``int`` and ``float``.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is bool:
        return Rule("true or false", lambda value: isinstance(value, bool))
    if origin is Literal:
        kinds = {(type(word), word) for word in arguments}  # True is not 1
        words = ", ".join(map(repr, arguments))
        return Rule(words, lambda value: _hashable(value) and (type(value), value) in kinds)
    if origin is Annotated:
        ranges = [one for one in arguments[1:] if isinstance(one, Range)]
        return _numbers(arguments[0], ranges[0]) if ranges else rule_of(arguments[0])
    if origin in (Union, types.UnionType):
        return _any_of(arguments)
    if isinstance(origin, type) and issubclass(origin, Sequence):
        # a tuple of unlike elements is left to the class
        alike = [one for one in arguments if one is not Ellipsis]
        return _each(rule_of(alike[0])) if len(alike) == 1 else None
    return None


def scalar_rule(hint: Any) -> Rule | None:
    """Return what a type allows, if its values are words, numbers, true, false or None.

    Sequences of such values count as well. None for every other type, texts without declared words
    among them, since a text may be the name of a file or of a class.
    """
    return (rule_of(hint) or _union(_parts(hint))) if _is_scalar(hint) else None


def need_of(hint: Any) -> str | None:
    """Return the evidence without which an option of this type has no effect, or None."""
    return next((one.field for one in typing.get_args(hint) if isinstance(one, Needs)), None)


def rules_of(cls: type) -> dict[str, Rule]:
    """Return, for each option of a class whose type declares something, what it declares."""
    rules = _RULES.get(cls)
    if rules is None:  # evaluating annotations takes far longer than making an object
        hints = hints_of(cls)
        declared = {field.name: rule_of(hints.get(field.name)) for field in fields_of(cls)}
        rules = _RULES[cls] = {name: rule for name, rule in declared.items() if rule is not None}
    return rules


def fields_of(cls: Any) -> list[dataclasses.Field[Any]]:
    """Return the dataclass fields that a class is made from: its options."""
    return [f for f in dataclasses.fields(cls) if f.init] if dataclasses.is_dataclass(cls) else []


def hints_of(cls: type) -> dict[str, Any]:
    """Return the types of a class's fields, without those of a class that cannot be evaluated.

    That can be a user's class: its annotations may use names that type checkers alone import.
    """
    unread: Exception | None = None
    for base in cls.__mro__:
        try:
            hints = typing.get_type_hints(base, include_extras=True)
        except Exception as error:  # whatever evaluating an annotation raises
            unread = unread or error
            continue
        break
    if unread is not None:
        warnings.warn(
            f"options that {cls.__qualname__} declares are not checked: an annotation cannot be "
            f"evaluated ({type(unread).__name__}: {unread})",
            stacklevel=5,
        )
    return hints


def _is_scalar(hint: Any) -> bool:
    origin = typing.get_origin(hint)
    if origin is Literal:
        return True
    if origin is Annotated:
        return _is_scalar(typing.get_args(hint)[0])
    if origin in (Union, types.UnionType):
        return all(map(_is_scalar, typing.get_args(hint)))
    if isinstance(origin, type) and issubclass(origin, Sequence):
        return rule_of(hint) is not None and all(map(_is_scalar, _parts(hint)))
    return hint in (bool, int, float, type(None))


def _parts(hint: Any) -> list[Any]:
    """Return the types that a union or a sequence is made of; another type itself."""
    return [one for one in typing.get_args(hint) or (hint,) if one is not Ellipsis]


def _numbers(base: Any, span: Range) -> Rule:
    if base is float:
        kind, allowed = Real, f"a number in [{span.low}, {span.high}]"
    elif base is int:
        upper = "" if span.high == math.inf else f" and <= {span.high}"
        kind, allowed = Integral, f"a whole number >= {span.low}{upper}"
    else:
        raise LftrError(f"{span} is given to the type {base}; allowed: int or float")

    def accepts(value: Any) -> bool:
        number = isinstance(value, kind) and not isinstance(value, bool)
        return number and bool(span.low <= value <= span.high)

    return Rule(allowed, accepts)


def _any_of(hints: Sequence[Any]) -> Rule | None:
    """Return the rule of a union; None where no type of it declares anything."""
    return _union(hints) if any(map(rule_of, hints)) else None


def _union(hints: Sequence[Any]) -> Rule:
    """Return the rule of a union in which a type without a declaration allows its instances."""
    none = type(None)
    rules = [rule_of(hint) or _instance(hint) for hint in hints if hint is not none]

    def accepts(value: Any) -> bool:
        return (value is None and none in hints) or any(rule.accepts(value) for rule in rules)

    return Rule(" or ".join(rule.allowed for rule in rules), accepts)


def _instance(hint: Any) -> Rule:
    """Return the rule of a type without a declaration: its instances; anything where it is none."""
    cls = typing.get_origin(hint) or hint
    if cls in (int, float):
        kind, allowed = (Integral, "a whole number") if cls is int else (Real, "a number")
        return Rule(allowed, lambda value: isinstance(value, kind) and not isinstance(value, bool))
    cannot_tell = getattr(cls, "_is_protocol", False) or typing.is_typeddict(cls)
    if cannot_tell or not isinstance(cls, type):
        return Rule(str(hint), lambda value: True)
    return Rule(f"a value of type {hint.__name__}", lambda value: isinstance(value, cls))


def _each(element: Rule | None) -> Rule | None:
    """Return the rule of a sequence whose elements have one."""
    if element is None:
        return None

    def accepts(value: Any) -> bool:
        return _is_sequence(value) and all(map(element.accepts, value))

    return Rule(f"several, each {element.allowed}", accepts, element)


def _hashable(value: object) -> bool:
    return type(value).__hash__ is not None


def _is_sequence(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)
