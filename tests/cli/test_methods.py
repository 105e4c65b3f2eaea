"""`lftr methods`, `--version`, help, and what happens without the extra."""

from __future__ import annotations

import builtins
import sys

import pytest

import lftr as library
from lftr.__main__ import main
from lftr.cli.parsing import parse_method
from lftr.methods import get_method, list_methods
from lftr.methods.inside.schedules import Average, Stages, Step
from lftr.options.spelling import parse_value
from lftr.values.errors import ArgumentError


def test_every_method_is_listed_with_its_options_and_evidence(reads):
    told = {one["name"]: one for one in reads("methods")}
    assert sorted(told) == list_methods()
    assert told["random"]["options"] == {"seed": 0}
    assert told["fastervlm"]["evidence"] == [["cls_attention", "attention_received"]]
    assert all(one["summary"].endswith((".", ":")) for one in told.values())


def test_the_list_names_sources(reads, lftr):
    told = {one["name"]: one["source"] for one in reads("methods")}
    assert told["trim"]["arxiv"] == "2409.10994"
    assert told["trim"]["code"] == "https://github.com/FreedomIntelligence/TRIM"
    assert told["random"] == {"title": "this project", "note": "a control"}
    assert "arXiv 2409.10994" in " ".join(lftr("methods").stdout.split())


def test_the_list_says_what_an_option_may_be(reads, lftr):
    told = {one["name"]: one for one in reads("methods")}
    assert told["lftr"]["allowed"]["relevance"] == "'frame', 'text', 'both'"
    assert told["lftr"]["allowed"]["diversity"] == "a number in [0.0, 1.0]"
    assert told["aim"]["allowed"]["folds"] == "several, each a whole number >= 1"
    assert told["fastv"]["allowed"] == {}
    assert all(set(one["allowed"]) <= set(one["options"]) for one in told.values())
    table = lftr("methods").stdout
    assert "pivots=4 (a whole number >= 1)" in table
    assert "leftovers=drop ('merge', 'drop')" in table


def test_methods_inside_the_language_model_say_what_they_read(reads):
    told = {one["name"]: one for one in reads("methods")}
    assert {one["acts"] for one in told.values()} == {"before", "inside"}
    assert [n for n, one in told.items() if one["acts"] == "inside"] == list_methods("inside")
    assert told["fastv"]["options"] == {"schedule": "Step(layer=2, keep=0.5)"}
    assert told["fastv"]["evidence"] == [["attention of the layer before"]]
    assert told["pyramiddrop"]["evidence"] == [["the last token's attention in the layer to come"]]
    assert told["greedyprune"]["evidence"] == [["states, no attention"]]


@pytest.mark.parametrize(
    ("text", "schedule"),
    [
        ("Step(layer=0.25, keep=64)", Step(0.25, 64)),
        ("Stages(layers=(1, 2), keep=(0.5, 0.2))", Stages((1, 2), (0.5, 0.2))),
        ("Average(shape=Step(layer=3), keep=0.75)", Average(Step(layer=3), 0.75)),
        ("Step(2, 1/4)", Step(2, 0.25)),
    ],
)
def test_schedules_are_spelled_as_they_are_printed(text, schedule):
    assert parse_method("fastv", [f"schedule={text}"]).schedule == schedule


@pytest.mark.parametrize(
    ("options", "schedule"),
    [
        (["layer=3"], Step(3, 0.5)),
        (["layer=0.25", "keep=1/8"], Step(0.25, 0.125)),
        (["keep=64"], Step(2, 64)),
    ],
)
def test_a_cut_is_spelled_by_its_layer_and_keep(options, schedule):
    assert parse_method("fastv", options).schedule == schedule
    with pytest.raises(ArgumentError, match="layer = 'early'"):
        parse_method("fastv", ["layer=early"])


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("Step(", "schedule = 'Step('"),
        ("Step(2, 0.5, 1)", "such as Step"),
        ("2", "schedule = '2'"),
        ("Stairs()", "unknown schedule 'Stairs'"),
        ("Step(floor=2)", "unknown option of schedule 'Step' 'floor'"),
        ("Step(layer=0)", "layer = 0"),
        ("__import__('os')", "unknown schedule '__import__'"),
        ("fastv(layer=2)", "unknown schedule 'fastv'"),
    ],
)
def test_what_is_no_schedule(text, named):
    with pytest.raises(ArgumentError) as raised:
        parse_method("fastv", [f"schedule={text}"])
    assert named in str(raised.value)


def test_the_table_names_every_method(lftr):
    result = lftr("methods")
    assert result.exit_code == 0
    assert all(name in result.stdout for name in list_methods())


def test_version(lftr):
    result = lftr("--version")
    assert (result.exit_code, result.stdout.strip()) == (0, f"lftr {library.__version__}")


def test_help_names_every_verb(lftr):
    result = lftr("--help")
    assert result.exit_code == 0
    assert all(verb in result.stdout for verb in ("run", "demo", "methods", "show"))
    assert lftr().exit_code == 2
    assert lftr("fly").exit_code == 2


@pytest.mark.parametrize("name", list_methods())
def test_options_go_through_the_command_line_unchanged(name):
    import dataclasses

    method = get_method(name)
    words = []
    for field in dataclasses.fields(method):
        value = getattr(method, field.name)
        text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        words.append(f"{field.name}={text}")
    assert parse_method(name, words) == method


@pytest.mark.parametrize(
    ("text", "hint", "value"),
    [
        ("yes", bool, True),
        ("off", bool, False),
        ("3", int, 3),
        ("1/4", float, 0.25),
        ("1e-3", float, 1e-3),
        ("1,2", tuple[int, ...], (1, 2)),
        ("", tuple[int, ...], ()),
        ("()", tuple[int, ...], ()),
        ("(1, 2)", tuple[int, ...], (1, 2)),
        ("none", int | None, None),
        ("5", int | None, 5),
        ("0.5", int | float | None, 0.5),
        ("word", str | None, "word"),
    ],
)
def test_values_are_read_by_their_type(text, hint, value):
    assert parse_value("option", text, hint) == value


@pytest.mark.parametrize(
    ("text", "hint"), [("maybe", bool), ("1.5", int), ("x", float), ("x", dict)]
)
def test_a_value_of_another_type_names_the_option(text, hint):
    with pytest.raises(ArgumentError, match="option = "):
        parse_value("option", text, hint)


@pytest.mark.parametrize("package", ["typer", "rich"])
def test_without_the_extra_one_line_says_what_to_install(monkeypatch, capsys, package):
    for name in [
        name for name in sys.modules if name.startswith(("lftr.app", "lftr.cli.", "lftr.lab.cli."))
    ]:
        monkeypatch.delitem(sys.modules, name)
    whole = builtins.__import__

    def without(name, *args, **kwargs):
        if name.partition(".")[0] == package:
            raise ModuleNotFoundError(f"No module named {package!r}", name=package)
        return whole(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    line = capsys.readouterr().err.strip()
    assert line == f"{package} is not installed: pip install typer rich"
