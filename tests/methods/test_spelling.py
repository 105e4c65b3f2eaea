"""Methods as a text: what reports print is what the command line, presets and requests read."""

from __future__ import annotations

import importlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import lftr
from lftr.cli.parsing import parse_method, parse_setting
from lftr.methods import (
    Adaptive,
    Coordinates,
    Merge,
    MergeInside,
    Mix,
    PerFrame,
    PerTile,
    Then,
    compose,
)
from lftr.methods.encoder.spelling import MERGES
from lftr.options.calls import read_call
from lftr.options.plain import Plain, classes_of

TEXTS = {
    "Merge(divprune)": Merge("divprune"),
    "Merge(divprune, weighting='similarity', own=0.6)": Merge(
        "divprune", weighting="similarity", own=0.6
    ),
    "Then(Merge(evs), pool, first=0.5)": Then(Merge("evs"), "pool", first=0.5),
    "Mix(lftr(space='encoder'), Adaptive(divprune, within=False), share=0.25)": Mix(
        lftr.methods.Lftr(space="encoder"), Adaptive("divprune", within=False), share=0.25
    ),
    "PerFrame(v-cast)": PerFrame("v-cast"),
    "PerTile(greedy-nms, temperature=0.1)": PerTile("greedy-nms", temperature=0.1),
    "MergeInside(pyramiddrop)": MergeInside("pyramiddrop"),
    "Coordinates(fastv(schedule=Step(layer=3, keep=0.25)), share=0.2)": Coordinates(
        lftr.methods.FastV(layer=3, keep=0.25), share=0.2
    ),
    "aim(folds=(288, 144))": lftr.get_method("aim", folds=(288, 144)),
    "lftr(candidates=3.0)": lftr.get_method("lftr", candidates=3.0),
}


@pytest.mark.parametrize("text", TEXTS)
def test_one_spelling_everywhere(text: str, tmp_path: Path) -> None:
    method = TEXTS[text]
    assert str(method) == text
    assert lftr.get_method(text) == method
    assert parse_method(text, []) == method
    assert parse_setting([text], None, None, None).method == method
    for written in ({"method": text}, {"method": [text]}, {"method": [{"method": text}]}):
        path = tmp_path / "preset.json"
        path.write_text(json.dumps({"format": 1, "keep": "1/4", **written}))
        assert list(lftr.Preset.load(path).methods) == [method]


@pytest.mark.parametrize("name", lftr.list_methods())
def test_every_method_in_a_composition(name: str) -> None:
    wrap = Merge if name in lftr.list_methods("before") else MergeInside
    assert lftr.get_method(str(wrap(name))) == wrap(name)
    assert str(wrap(name)) == f"{wrap.__name__}({name})"


@pytest.mark.parametrize(
    "text",
    [
        "Merge(inner=divprune)",
        " Merge ( 'divprune' , ) ",
        'Merge(inner="divprune", own=0)',
        "Merge(divprune, mean)",
    ],
)
def test_other_spellings_of_the_same(text: str) -> None:
    assert lftr.get_method(text) == Merge("divprune")


def test_options_beside_it() -> None:
    assert parse_method("Merge(divprune)", ["own=1/4"]) == Merge("divprune", own=0.25)
    assert lftr.get_method("fastv(layer=3)") == lftr.methods.FastV(layer=3)
    with pytest.raises(lftr.ArgumentError, match=r"own = 0\.5; allowed: once"):
        parse_method("Merge(divprune, own=0.25)", ["own=0.5"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Merge", r"its options too, such as Merge\(divprune\)"),
        ("Mix", r"such as Mix\(divprune, divprune\)"),
        ("Coordinates", r"such as Coordinates\(fastv\)"),
        ("OneCut", "unknown method 'OneCut'"),
        ("OneCut()", "unknown method 'OneCut'"),
        ("Fittable()", "unknown method 'Fittable'"),
        ("LayerWrapper(fastv)", "unknown method 'LayerWrapper'"),
        ("merge(divprune)", "did you mean 'Merge'"),
        ("Merge(divprun)", "unknown method 'divprun'"),
        ("Merge(divprune", "',' or '\\)' was expected after inner of Merge"),
        ("Merge(divprune))", "nothing was expected after it"),
        ("Merge(inner=divprune, 0.5)", "takes the next value with its option's name"),
        ("Merge(divprune, inner=lftr)", "inner is there twice"),
        ("Merge()", "missing 1 required"),
        ("Merge(divprune, weight=1)", "unknown option of method 'Merge' 'weight'"),
        ("Merge(divprune, own=2.5)", "own = 2.5; allowed"),
        ("Merge(Step(2, 0.5))", "inner = Step"),
        ("Merge(MergeInside(fastv))", "inside the language model"),
        ("Step(layer=2, keep=0.5)", "unknown method 'Step'"),
        ("Merge(divprune, own=1/0)", "a method with its options"),
        ("Merge(divprune, own='\\x')", "a method with its options"),
        ("Merge(" * 400, "more than 8 inside each other"),
        ("__import__('os')", "unknown method '__import__'"),
        ("Merge(lambda: 1)", "not understood"),
        ("Merge(", "ends too early"),
    ],
)
def test_what_is_no_method_says_why(text: str, words: str) -> None:
    with pytest.raises(lftr.ArgumentError, match=words):
        lftr.get_method(text)


def test_what_is_read_is_plain() -> None:
    read = read_call("method", "Mix(lftr, b=pool, share=1/4)", "method")
    assert read == {"method": "Mix", "options": {"a": "lftr", "b": "pool", "share": 0.25}}


@dataclass(frozen=True)
class Holding(lftr.Method):
    """Holds values of any kind."""

    values: tuple[Any, ...] = ()


@pytest.mark.parametrize(
    "value",
    [1, -2.5e-7, 1e300, float("-inf"), True, None, "it's", 'a "b"', (), (1,), ((2,), "c")],
)
def test_values_come_back(value: Any) -> None:
    method = Holding((value,))
    assert lftr.get_method(str(method)) == method
    assert lftr.get_method("Holding(([6.25%, 1/4, inf, false],))").values == (
        (0.0625, 0.25, float("inf"), False),
    )


def test_what_can_be_called_is_public() -> None:
    for module in ("lftr.lab.exits.fit", "lftr.lab.fitting.trainee"):
        importlib.import_module(module)  # these have methods that no text should make
    classes = {
        name: cls
        for kind in Plain.kinds
        for name, cls in classes_of(kind).items()
        if cls.__module__.startswith("lftr.")
    }
    merges = [cls.__name__ for cls in MERGES.values()]
    public = {*lftr.list_methods(), *compose.__all__, *lftr.schedules.__all__, *merges}
    assert set(classes) <= public


@pytest.mark.parametrize("name", compose.__all__)
def test_the_example_of_a_composition_is_one(name: str) -> None:
    with pytest.raises(lftr.ArgumentError) as refused:
        lftr.get_method(name)
    example = str(refused.value).rpartition("such as ")[2]
    assert str(lftr.get_method(example)) == example
