"""The method and the budget for images and videos, of a server or of one request."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from ....methods import compose, get_method, list_methods
from ....methods.base import Method
from ....methods.compose.base import Wrapper, encodes_again, is_fitted
from ....methods.encoder.spelling import spell_merge
from ....options.calls import plain_of
from ....options.checks import fields_of, hints_of, need_of, scalar_rule
from ....options.plain import from_plain, name_of, to_plain
from ....presets import Preset
from ....values.budget import as_arguments, budget_from_plain, resolve, stated
from ....values.errors import ArgumentError
from ....values.evidence import FIELDS, fields_from
from ..start_options import NAMES

KEY = "lftr"
QUESTIONS = "lftr_questions"
"""The argument of vLLM's processor with the text that guides the choice in each item, by medium."""
BUDGET = "keep, a ratio in (0, 1] as a number or as '1/16', or tokens, a whole number up to 10**6"
_BUDGET = ("keep", "tokens")
_FIELDS = ("method", "options", "guide", *_BUDGET)
Guide = Literal["last", "first"]
TEXTS = fields_from("prompt", "language") | {"text_embeds"}
# where slots have no weights, dropping answered better on images (benchmarks/weights.py)
UNWEIGHTED = {"lftr": {"space": "encoder", "candidates": 1.0, "leftovers": "drop"}}
COMPOSITIONS: dict[str, type[Wrapper]] = {
    cls.__name__: cls
    for cls in map(vars(compose).get, compose.__all__)
    if isinstance(cls, type) and issubclass(cls, Wrapper)
}
_INSIDE = "it acts inside the language model, whose paged cache holds every token in all layers"
_MOST_VALUES, _MOST_TEXT, _MOST = 64, 2000, 10**6


@dataclass(frozen=True)
class RequestSetting:
    """A method and how many tokens it keeps of each image and of each video.

    Parameters
    ----------
    method : Method
        Decides before the language model.
    keep : float or int
        A ratio (float) or a count (int), see `lftr.values.budget.resolve`: what depends on sizes
        alone.
    guide : {"last", "first"}
        The text that guides methods which compare with one: all of the prompt's, or that up to the
        first answer after the item, which stays the same in later turns.
    example : bool
        Whether the items are vLLM's own, with which it measures memory when a model is loaded.
    """

    method: Method
    keep: float | int
    guide: Guide = "last"
    example: bool = False

    @property
    def name(self) -> str:
        """The method's name for counters, without what it is made of."""
        return name_of(type(self.method))

    def count(self, size: int) -> int:
        """Return how many of ``size`` tokens stay."""
        return resolve(self.keep, size)

    def guided(self, provided: frozenset[str]) -> bool:
        """Whether the choice depends on the prompt's text, where these fields are provided."""
        drops = isinstance(self.keep, int) or self.keep < 1
        return drops and bool(TEXTS & seen_by(self.method, provided))

    def to_plain(self) -> dict[str, Any]:
        """Return the setting as the values that `read` takes."""
        guide = {} if self.guide == "last" else {"guide": self.guide}
        return {**to_plain(self.method), **as_arguments(self.keep), **guide}

    @functools.cached_property
    def text(self) -> str:
        """The setting in normal form, equal for equal settings."""
        return json.dumps(self.to_plain(), sort_keys=True, separators=(",", ":"))

    def __str__(self) -> str:
        return f"{self.method} {stated(self.keep)}"


def field_of(medium: str) -> str:
    """Return the name of the field with the settings of a medium's items."""
    return f"{KEY}_{medium}"


def question_field_of(medium: str) -> str:
    """Return the name of the field with the texts that guide the choice in a medium's items."""
    return f"{KEY}_question_{medium}"


def size_field_of(medium: str) -> str:
    """Return the name of the field with the number of all tokens of a medium's items."""
    return f"{KEY}_size_{medium}"


@functools.lru_cache(maxsize=256)
def setting_of(text: str) -> RequestSetting:
    """Return the setting that has this `RequestSetting.text`, of an example if that says so."""
    values = json.loads(text)
    method = from_plain({key: values[key] for key in ("method", "options")})
    guide = values.get("guide", "last")
    return RequestSetting(method, budget_from_plain(values), guide, values.get("example", False))


def of_server(values: Any, provided: frozenset[str], weighted: bool = False) -> RequestSetting:
    """Read a server's own setting: ``method``, ``options`` and a budget; or a ``preset``.

    `StartOptions` reads what stands beside it.

    Parameters
    ----------
    values : mapping or None
        The ``lftr`` of the model's configuration; None for LFTR with ``keep=1/16``.
    provided : frozenset of str
        The fields that the model provides.
    weighted : bool
        Whether slots have weights in attention, which methods' defaults depend on.

    Raises
    ------
    ArgumentError
        If a value is not allowed, or the method does not fit; the message names those that do.
    """
    base = RequestSetting(get_method("lftr", **_defaults("lftr", weighted)), 1 / 16)
    values = {} if values is None else values
    if isinstance(values, Mapping):
        values = {key: value for key, value in values.items() if key not in NAMES}
    if isinstance(values, Mapping) and "preset" in values:
        if values.keys() - {"preset", "guide"}:
            raise ArgumentError.of(KEY, dict(values), "a preset, or method, options and a budget")
        return of_preset(Preset.load(values["preset"]), provided, values.get("guide", "last"))
    return read(values, base, provided, weighted, _build_method)


def of_preset(preset: Preset, provided: frozenset[str], guide: object = "last") -> RequestSetting:
    """Return a preset's method and budget, with the ``guide`` of a server.

    Raises
    ------
    ArgumentError
        If a server cannot use them.
    """
    if len(preset.methods) != 1:
        names = [str(method) for method in preset.methods]
        raise ArgumentError.of("preset", names, "one method, before the language model")
    if preset.encoder is not None:
        merge = spell_merge(preset.encoder)
        raise ArgumentError.of("encoder", merge, "None: vLLM's vision encoder merges no tokens")
    method = _fitting(preset.methods[0], provided)
    return RequestSetting(method, _read_budget(as_arguments(preset.budget)), _read_guide(guide))


def read(
    values: object,
    default: RequestSetting,
    provided: frozenset[str],
    weighted: bool = False,
    method_of: Callable[[object, object, frozenset[str], bool], Method] | None = None,
) -> RequestSetting:
    """Return a request's setting; what it omits is as in ``default``.

    Parameters
    ----------
    values : mapping
        ``method`` and ``options``, ``keep`` or ``tokens``, ``guide``.
    default : RequestSetting
        The server's own.
    provided : frozenset of str
        The fields that the model provides.
    weighted : bool
        Whether slots have weights in attention, which methods' defaults depend on.
    method_of : callable, optional
        Makes a method from its name, its options, ``provided`` and ``weighted``; by default what a
        client may ask for.

    Raises
    ------
    ArgumentError
        If a value is not allowed, or the method does not fit; the message names those that do.
    """
    if not isinstance(values, Mapping):
        raise ArgumentError.of(KEY, values, f"an object with {', '.join(_FIELDS)}")
    _check_small(values)
    for key in values:
        if key not in _FIELDS:
            raise ArgumentError.unknown(f"key of {KEY!r}", str(key), _FIELDS)
    if "options" in values and "method" not in values:
        raise ArgumentError.of("options", values["options"], "options beside the method's name")
    method = default.method
    if "method" in values:
        name, options = values["method"], values.get("options", {})
        method = (method_of or _read_method)(name, options, provided, weighted)
    budget = {key: values[key] for key in _BUDGET if key in values}
    keep = _read_budget(budget) if budget else default.keep
    return RequestSetting(method, keep, _read_guide(values.get("guide", default.guide)))


def _read_method(name: object, options: object, provided: frozenset[str], weighted: bool) -> Method:
    """Return the method that a client asks for: a name and options, or a call with them.

    Its options can be words, numbers, true or false alone, as their types declare, and methods
    where a method is made of others. Nothing is built from them before they are checked: an option
    of another type may name a file.
    """
    plain = _whole(name, options)
    _check_small(plain)
    values = _defaults(str(plain["method"]), weighted)
    return _fitting(_checked_method(plain, values, provided), provided)


def _whole(name: object, options: object) -> dict[str, Any]:
    """Return a method and those that it is made of as one plain value, every call in it read."""
    plain = plain_of(name, options)
    values = plain["options"]
    for option in values.keys() & set(_made_of(plain["method"])):
        value = values[option]
        inner = value if isinstance(value, Mapping) else {"method": value}
        if not {"method"} <= inner.keys() <= {"method", "options"}:
            raise ArgumentError.of(option, value, "a method, with its options")
        values[option] = _whole(inner["method"], inner.get("options", {}))
    return plain


def _made_of(name: object) -> tuple[str, ...]:
    """Return the options of a composition that are methods; of any other name none."""
    cls = COMPOSITIONS.get(name) if isinstance(name, str) else None
    return () if cls is None else cls.inside


def _checked_method(
    plain: Mapping[str, Any], values: dict[str, Any], provided: frozenset[str]
) -> Method:
    """Return a client's method, and those that it is made of; ``values`` are defaults."""
    name, options = plain["method"], plain["options"]
    if name in list_methods("inside"):
        raise _refusal(name, _INSIDE, provided)
    if name not in [*list_methods("before"), *COMPOSITIONS]:
        raise ArgumentError.unknown("method", str(name), [*fitting(provided), *COMPOSITIONS])
    cls = Method.registry.get(str(name)) or COMPOSITIONS[str(name)]
    known = [field.name for field in fields_of(cls)]
    hints, holds = hints_of(cls), _made_of(name)
    for option, value in options.items():
        if option not in known:
            raise ArgumentError.unknown(f"option of method {name!r}", str(option), known)
        if option in holds:
            values[option] = _checked_method(value, {}, provided)
            continue
        rule = scalar_rule(hints.get(option))
        if rule is None:
            raise ArgumentError.of(option, value, "no value from a request: it is set in Python")
        if value in ("inf", "-inf"):  # as presets and settings spell what JSON does not have
            value = float(value)
        rule.check(option, value)
        _check_effect(option, value, hints[option], provided)
        values[option] = from_plain(value)  # a list becomes a tuple
    for option in holds:
        if option not in values:
            raise ArgumentError.of(option, None, f"a method: {name} is made of others")
    return cls(**values)


def _build_method(
    name: object, options: object, provided: frozenset[str], weighted: bool
) -> Method:
    """Return the method that an operator asks for, whose options may be of any type."""
    if name in list_methods("inside"):
        raise _refusal(name, _INSIDE, provided)
    plain = _whole(name, options)
    plain["options"] = _defaults(str(plain["method"]), weighted) | plain["options"]
    return _fitting(from_plain(plain), provided)


def _check_effect(option: str, value: object, hint: Any, provided: frozenset[str]) -> None:
    """Refuse the value of an option that would do nothing, for want of evidence."""
    need = need_of(hint)
    if value and need is not None and need not in provided:
        tower = "a server with --text-tower" if need == "text_embeds" else f"a model with {need}"
        raise ArgumentError.of(option, value, f"0 here, or {tower}, without which it does nothing")


def _defaults(name: str, weighted: bool) -> dict[str, Any]:
    return {} if weighted else dict(UNWEIGHTED.get(name, {}))


def _read_guide(value: object) -> Guide:
    if value == "first":
        return "first"
    if value == "last":
        return "last"
    raise ArgumentError.of("guide", value, " or ".join(map(repr, get_args(Guide))))


def seen_by(method: Method, provided: frozenset[str]) -> frozenset[str]:
    """Return the fields that a method sees: of each need, the first one that is provided."""
    return frozenset(next(n for n in names if n in provided) for names in method.evidence)


def misses_text(method: Method, provided: frozenset[str]) -> bool:
    """Whether a method would be guided by text, and chooses without it where these are provided."""
    first = {names[0] for names in method.evidence}
    return bool(first & TEXTS) and not TEXTS & seen_by(method, provided)


def fitting(provided: frozenset[str]) -> list[str]:
    """Return the names of the methods that can serve with these fields."""
    return [name for name in list_methods("before") if _lack(get_method(name), provided) is None]


def _fitting(method: object, provided: frozenset[str]) -> Method:
    lack = _lack(method, provided)
    if lack is None:
        assert isinstance(method, Method)
        return method
    raise _refusal(method, lack, provided)


def _refusal(method: object, lack: str, provided: frozenset[str]) -> ArgumentError:
    return ArgumentError(
        f"method {method} cannot serve here: {lack}; those that can: {', '.join(fitting(provided))}"
    )


def _lack(method: object, provided: frozenset[str]) -> str | None:
    """Return why a method cannot serve, or None."""
    if not isinstance(method, Method):
        return _INSIDE
    if encodes_again(method):
        return "it encodes the image a second time, at another size"
    if is_fitted(method):
        return (
            "it has a fitted part, which vLLM's caches would know by its path and not its content"
        )
    for names in method.evidence:
        if not provided.intersection(names):
            inside = FIELDS[names[0]].origin == "language"
            where = "this model's first layer" if inside else "this model's encoder"
            return f"it needs {' or '.join(names)}, which vLLM's host cannot read from {where}"
    return None


def _read_budget(values: Mapping[str, Any]) -> float | int:
    """Return the ratio or the count of an object that has ``keep``, ``tokens`` or both."""
    name, value = list(values.items())[-1]
    for key, number in values.items():
        if isinstance(number, int) and number > 10**6:  # some are too long to be printed
            raise ArgumentError.of(key, f"a number of {number.bit_length()} bits", BUDGET)
    try:
        budget = budget_from_plain(values)
    except ArgumentError:
        raise ArgumentError.of(name, value, BUDGET) from None
    if not isinstance(budget, int | float):
        raise ArgumentError.of(name, value, f"{BUDGET}: an item at a time")
    return budget


def _check_small(values: Mapping[Any, Any]) -> None:
    """Check the size of a setting, before recursive code reads it.

    Ratios, weights and counts of tokens, groups or frames are all far below ``_MOST``; beyond, sums
    overflow and loops do not end.
    """
    waiting: list[tuple[Any, int]] = [(values, 0)]
    seen = text = 0
    while waiting:
        value, depth = waiting.pop()
        seen += 1
        if isinstance(value, Mapping):
            waiting += [(part, depth + 1) for pair in value.items() for part in pair]
        elif isinstance(value, (list, tuple)):
            waiting += [(part, depth + 1) for part in value]
        elif isinstance(value, str):
            text += len(value)
        elif isinstance(value, int):
            text += value.bit_length() // 4
        if seen > _MOST_VALUES or text > _MOST_TEXT:
            raise ArgumentError(
                f"{KEY} holds more than a method and its options; allowed: {_MOST_VALUES} values, "
                f"{_MOST_TEXT} characters"
            )
        if depth > 1 and isinstance(value, (int, float)) and not abs(value) <= _MOST:
            raise ArgumentError.of("option", value, f"numbers from -{_MOST} to {_MOST}")
