"""What the type of an option declares is checked when a method, schedule or merge is made."""

from __future__ import annotations

import ast
import inspect
import math
import pickle
from dataclasses import MISSING, InitVar, dataclass
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Literal,
    Protocol,
    get_args,
    get_origin,
    get_type_hints,
)

import pytest

import lftr
from lftr.methods.compose import Adaptive, Merge, Mix, PerFrame, Then
from lftr.methods.encoder.spelling import MERGES
from lftr.methods.lookup import KINDS
from lftr.options import checks
from lftr.options.checks import Range, check, fields_of, rules_of
from lftr.options.plain import Plain, from_plain, to_plain
from lftr.options.spelling import parse_options
from lftr.values.errors import ArgumentError

if TYPE_CHECKING:
    from decimal import Decimal as Unimported

ROOT = Path(inspect.getfile(lftr)).parent
OTHERS = (Adaptive, Merge, Mix, PerFrame, Then)
NEEDED = {"inner": "uniform", "a": "uniform", "b": "uniform", "shape": lftr.schedules.Step()}


def registered():
    kinds = [KINDS[where].registry for where in KINDS]
    return [c for kind in kinds for c in kind.values() if c.__module__.startswith("lftr.")]


def declaring():
    """Every class of lftr with options: registered methods, wrappers, schedules, merges."""
    schedules = [s for s in vars(lftr.schedules).values() if isinstance(s, type)]
    schedules = [s for s in schedules if issubclass(s, lftr.schedules.Schedule) and fields_of(s)]
    return [*registered(), *OTHERS, *schedules, *MERGES.values()]


def outside(hint):
    """Values that a declaration refuses, with what it allows, read from the type alone."""
    arguments = get_args(hint)
    if hint is bool:
        return [(value, "true or false") for value in ("false", 0, None)]
    if get_origin(hint) is Literal:
        return [(value, ", ".join(map(repr, arguments))) for value in ("no such word", None, 3)]
    if get_origin(hint) is Annotated:
        kind, span, *_ = arguments
        below = span.low - (1 if kind is int else 1e-7)
        values = [below, math.nan, True, "1"] + [span.high * 2 + 1] * (span.high < math.inf)
        if kind is int:
            upper = f" and <= {span.high}" if span.high < math.inf else ""
            return [(v, f"a whole number >= {span.low}{upper}") for v in [*values, None, 1.5]]
        return [(v, f"a number in [{span.low}, {span.high}]") for v in [*values, None]]
    if type(None) in arguments and len(arguments) == 2:
        inner = arguments[0]
        return [(value, allowed) for value, allowed in outside(inner) if value is not None]
    return []


DECLARED = [
    pytest.param(cls, option, value, allowed, id=f"{cls.__name__}-{option}-{value}")
    for cls in declaring()
    for option, hint in get_type_hints(cls, include_extras=True).items()
    if get_origin(hint) is not InitVar and option in {f.name for f in fields_of(cls)}
    for value, allowed in outside(hint)
]


def test_declarations_are_found_in_most_methods():
    assert sum(bool(rules_of(cls)) for cls in registered()) > 30
    assert len({(case.values[0], case.values[1]) for case in DECLARED}) > 80


@pytest.mark.parametrize(("cls", "option", "value", "allowed"), DECLARED)
def test_a_value_outside_its_declaration_is_refused(cls, option, value, allowed):
    given = {f.name: NEEDED.get(f.name, 0.5) for f in fields_of(cls) if f.default is MISSING}
    with pytest.raises(ArgumentError) as raised:
        cls(**given | {option: value})
    assert str(raised.value) == f"{option} = {value!r}; allowed: {allowed}"


def test_every_option_of_every_method_is_checked():
    by_hand = {"schedule", "centre", "heads", "gates", "fitted"}
    for cls in registered():
        assert {field.name for field in fields_of(cls)} - rules_of(cls).keys() <= by_hand, cls


@pytest.mark.parametrize("name", ["aim", "aim-video"])
def test_of_a_sequence_the_element_is_named(name):
    assert lftr.get_method(name, folds=(1, 2)).folds == (1, 2)
    with pytest.raises(ArgumentError, match=r"^folds = 0; allowed: a whole number >= 1$"):
        lftr.get_method(name, folds=(1, 0))
    for value in (3, "12", None):
        with pytest.raises(ArgumentError, match=f"^folds = {value!r}; allowed: several, each a wh"):
            lftr.get_method(name, folds=value)


@pytest.mark.parametrize("cls", declaring(), ids=lambda cls: cls.__name__)
def test_every_annotation_can_be_evaluated(cls, recwarn):
    checks._RULES.pop(cls, None)
    rules_of(cls)
    assert not recwarn.list


def test_no_method_checks_words_or_ranges_by_hand_and_every_one_calls_its_base():
    found = 0
    for path in (ROOT / "methods").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.FunctionDef) or node.name != "__post_init__":
                continue
            found += 1
            where = f"{path.name}:{node.lineno}"
            body = [n for n in node.body if not isinstance(getattr(n, "value", 0), ast.Constant)]
            assert ast.unparse(body[0]).startswith("super().__post_init__("), where
            calls = {n.func.id for n in ast.walk(node) if isinstance(n, ast.Call) and named(n)}
            assert not calls & {"check", "Range"}, where
    assert found > 5


@dataclass(frozen=True)
class OwnCheck(lftr.Method):
    """Checks an option by itself, and does not call its base."""

    share: Annotated[float, lftr.Range(0.0, 1.0)] = 0.5

    def __post_init__(self):
        pass


@dataclass(frozen=True)
class Below(OwnCheck):
    """Inherits the check."""

    times: Annotated[int, lftr.Range(1)] = 1


def test_options_are_checked_without_a_call_of_the_base():
    with pytest.raises(ArgumentError, match=r"share = 5; allowed: a number in"):
        OwnCheck(share=5)
    with pytest.raises(ArgumentError, match=r"times = 0; allowed: a whole number >= 1"):
        Below(times=0)


@pytest.mark.parametrize(
    ("hint", "right", "wrong"),
    [
        (list, [3], None),
        (tuple[()], (), None),
        (tuple[Literal["a"], Annotated[int, lftr.Range(1)]], ("a", 2), None),
        (int | Literal["auto"], 3, True),
        (float | Literal["auto"], "auto", False),
        (Literal[1, 2], 1, True),
        (Literal["a"], "a", ["a"]),
    ],
)
def test_types_of_every_form(hint, right, wrong):
    check("option", right, hint)
    if wrong is not None:
        with pytest.raises(ArgumentError):
            check("option", wrong, hint)


def named(call):
    return isinstance(call.func, ast.Name)


class Length(Protocol):
    """A type whose instances cannot be told."""

    def length(self) -> int: ...


@dataclass(frozen=True)
class Some(Plain):
    """Every form of a declaration."""

    share: Annotated[float, Range(0.0, 1.0)] = 0.5
    size: int | Literal["auto"] = "auto"
    names: tuple[Literal["a", "b"], ...] = ()
    most: Annotated[int, Range(1)] | Annotated[float, Range(0.0, 0.5)] | None = None
    nested: Annotated[Literal["x"] | None, "a remark"] = None
    free: dict[str, Any] | None = None
    check: bool | Length = False


@pytest.mark.parametrize(
    "options",
    [
        {"share": 1},
        {"size": 3},
        {"names": ["a", "b", "a"]},
        {"most": 7},
        {"most": 0.25},
        {"nested": "x"},
        {"free": {"any": "thing"}},
        {"check": True},
        {"check": 3},
        {"share": 0.25, "size": "auto", "names": (), "most": None, "nested": None},
    ],
)
def test_what_a_declaration_allows(options):
    made = Some(**options)
    assert {name: getattr(made, name) for name in options} == options
    assert pickle.loads(pickle.dumps(made)) == made


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("share", 10**400, "allowed: a number in [0.0, 1.0]"),
        ("share", 1j, "share = 1j; allowed: a number in [0.0, 1.0]"),
        ("size", 1.5, "size = 1.5; allowed: a whole number or 'auto'"),
        ("names", ("a", "c"), "names = 'c'; allowed: 'a', 'b'"),
        ("names", "ab", "names = 'ab'; allowed: several, each 'a', 'b'"),
        ("most", 0.75, "most = 0.75; allowed: a whole number >= 1 or a number in [0.0, 0.5]"),
        ("nested", "y", "nested = 'y'; allowed: 'x'"),
    ],
)
def test_what_a_declaration_refuses(option, value, message):
    with pytest.raises(ArgumentError) as raised:
        Some(**{option: value})
    assert message in str(raised.value)


def test_the_command_line_reads_annotated_types():
    words = ["share=1/4", "most=3", "names=a,b", "size=5", "nested=none"]
    assert Some(**parse_options(Some, words)) == Some(0.25, 5, ("a", "b"), 3)

    @dataclass
    class Begun:
        share: InitVar[Annotated[float, Range(0.0)]] = 0.0

    Begun.__annotations__ = {"share": InitVar[Annotated[float, Range(0.0)]]}
    assert parse_options(Begun, ["share=1/4"]) == {"share": 0.25}


def test_plain_values_are_checked_too():
    method = lftr.get_method("lftr", relevance="text", diversity=0.5)
    plain = to_plain(method)
    assert from_plain(plain) == method
    plain["options"]["relevance"] = "nothing"
    with pytest.raises(ArgumentError, match="relevance = 'nothing'; allowed: 'frame', 'text'"):
        from_plain(plain)


def test_a_range_of_another_type_is_refused():
    with pytest.raises(lftr.LftrError, match="allowed: int or float"):
        check("one", 1, Annotated[int | None, Range(1)])


def test_options_of_a_class_that_cannot_be_evaluated_are_named_and_its_base_is_checked():
    @dataclass(frozen=True)
    class Mine(Some):
        price: Unimported | None = None
        extra: Annotated[int, Range(1)] = 1

    with pytest.warns(UserWarning, match=r"Mine declares are not checked: .*Unimported"):
        assert Mine(extra=0).extra == 0
    with pytest.raises(ArgumentError, match=r"share = 2; "):
        Mine(share=2)
