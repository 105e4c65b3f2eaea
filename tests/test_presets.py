"""Presets: what is saved is what is loaded, and a broken file says what is wrong with it."""

from __future__ import annotations

import json

import pytest
import torch

import lftr
from lftr import Preset, bundled, suites
from lftr.methods import Adaptive, Merge, Mix, Then
from lftr.options.plain import from_plain, to_plain
from lftr.presets import check_writable, model_name
from lftr.prompting import inputs_of
from lftr.values.budget import as_arguments

NESTED = {
    "merge": Merge("divprune", own=0.3),
    "then": Then(Merge("lftr"), "pool", first=0.5),
    "mix": Mix("lftr", Adaptive("divprune", within=False), share=0.25),
    "tuple": lftr.get_method("aim", folds=(288, 144)),
}


@pytest.mark.parametrize("name", lftr.list_methods())
def test_every_method_comes_back(name):
    method = lftr.get_method(name)
    again = from_plain(json.loads(json.dumps(to_plain(method))))
    assert again == method
    assert type(again) is type(method)


@pytest.mark.parametrize("name", NESTED)
def test_nested_methods_come_back(name):
    again = from_plain(json.loads(json.dumps(to_plain(NESTED[name]))))
    assert again == NESTED[name]
    assert str(again) == str(NESTED[name])


@pytest.mark.parametrize("budget", [1 / 16, 1.0, 1, 64, 0.07, lftr.Budget(99), "auto", None])
def test_budgets_come_back(tmp_path, budget):
    preset = Preset(lftr.get_method("trim"), **as_arguments(budget))
    preset.save(tmp_path / "preset.json")
    again = Preset.load(tmp_path / "preset.json")
    assert again == preset
    assert again.budget == budget
    assert type(again.budget) is type(budget)


@pytest.mark.parametrize(
    ("written", "budget"),
    [({"keep": 1}, 1.0), ({"keep": "6.25%"}, 1 / 16), ({"keep": "64"}, 64), ({"tokens": 1}, 1)],
)
def test_budgets_in_json(written, budget):
    """JavaScript writes 1.0 as 1: ``keep`` is a ratio, and counts are ``tokens``."""
    preset = Preset.from_plain({"format": 1, "method": "lftr"} | written)
    assert preset.budget == budget
    assert type(preset.budget) is type(budget)


def test_counts_as_keep_are_deprecated():
    with pytest.warns(DeprecationWarning, match="write tokens=64") as caught:
        preset = Preset(lftr.get_method("lftr"), 64)
    assert caught[0].filename == __file__
    assert preset == Preset(lftr.get_method("lftr"), tokens=64)
    with pytest.warns(DeprecationWarning, match="write tokens=64"):
        assert Preset.from_plain({"format": 1, "method": "lftr", "keep": 64}).tokens == 64


def test_everything_comes_back(tmp_path):
    methods = (lftr.get_method("lftr", diversity=0.5), lftr.get_method("fastv"))
    merge = lftr.EncoderFolder(keep=1 / 3)
    preset = Preset(methods, 1 / 8, "compact", "org/model", {"agreement": 0.95}, merge)
    preset.save(tmp_path / "preset.json")
    assert Preset.load(tmp_path / "preset.json") == preset
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize("method", ["Merge(divprune)", ["lftr", "fastv"]])
def test_names_become_objects(tmp_path, method):
    """As in `lftr.reduce`, which takes both."""
    preset = Preset(method, 1 / 4)
    preset.save(tmp_path / "preset.json")
    assert Preset.load(tmp_path / "preset.json") == preset
    several = [method] if isinstance(method, str) else method
    assert list(preset.methods) == [lftr.get_method(one) for one in several]


@pytest.mark.parametrize("method", [7, [], ["lftr", None]])
def test_what_is_no_method_is_refused(method):
    with pytest.raises(lftr.LftrError, match=r"^method = .*; allowed: a method or its name"):
        Preset(method, 1 / 4)


def test_a_user_s_own_method_comes_back():
    class Loudest(lftr.Method, name="loudest-of-the-preset-test"):
        def choose(self, tokens, keep):
            return lftr.Selection.top(tokens.features.norm(dim=-1), keep)

    assert isinstance(from_plain(to_plain(Loudest())), Loudest)


def test_reduces_as_the_arguments_by_hand_do(tmp_path):
    Preset(Merge("divprune"), 1 / 16, "compact").save(tmp_path / "preset.json")
    preset = Preset.load(tmp_path / "preset.json")
    model, processor = bundled.load()
    example = suites.load(n=1)[0]
    inputs = inputs_of(processor, example.images, example.question)
    logits = []
    by_hand = {"method": Merge("divprune"), "keep": 1 / 16, "positions": "compact"}
    for arguments in (preset.arguments(), by_hand):
        with lftr.reduce(model, **arguments), torch.inference_mode():
            logits.append(model(**inputs).logits)
    assert logits[0].shape[1] < inputs["input_ids"].shape[1]
    assert torch.equal(*logits)


GOOD = {"format": 1, "method": "lftr", "keep": "1/4"}
BROKEN = {
    "half a file": ('{"format": 1,', "Expecting"),
    "a list": ("[]", r"preset = \[\]; allowed: an object"),
    "no format": ({"method": "lftr", "keep": 4}, "format = None; allowed: 1"),
    "another format": (GOOD | {"format": 2}, "format = 2; allowed: 1"),
    "no budget": ({"format": 1, "method": "lftr"}, "method, keep or tokens"),
    "something more": (GOOD | {"kep": 1}, "'kep'"),
    "an unknown method": (GOOD | {"method": "divprun"}, "did you mean 'divprune'"),
    "no method": (GOOD | {"method": []}, "method = []; allowed"),
    "a number": (GOOD | {"method": 3}, "unknown method '3'"),
    "a schedule": (GOOD | {"method": [{"schedule": "Exit"}]}, "method = "),
    "an unknown option": (GOOD | {"options": {"diversty": 1}}, "did you mean 'diversity'"),
    "options that are none": (GOOD | {"options": 1}, "options = 1"),
    "an option out of range": (GOOD | {"options": {"diversity": 2}}, "diversity = 2"),
    "a missing option": (GOOD | {"method": "Merge"}, "'inner'"),
    "a budget out of range": (GOOD | {"keep": 0}, "keep = 0; allowed"),
    "a count out of range": (GOOD | {"keep": None, "tokens": 0}, "tokens = 0; allowed"),
    "a count that is none": (GOOD | {"keep": None, "tokens": 1.0}, "tokens = 1.0; allowed"),
    "two budgets": (GOOD | {"tokens": 4}, "tokens = 4; allowed: one of keep and tokens; keep = "),
    "a budget of nothing": (GOOD | {"keep": {"total": 0}}, "Budget.total = 0"),
    "a budget that is none": (GOOD | {"keep": [4]}, r"keep = \[4\]"),
    "positions": (GOOD | {"positions": "middle"}, "positions = 'middle'"),
    "a model": (GOOD | {"model": 7}, "model = 7"),
    "evidence": (GOOD | {"found": 7}, "found = 7"),
    "a merge that is none": (GOOD | {"encoder": 7}, "encoder = 7"),
    "a method for a merge": (GOOD | {"encoder": {"method": "lftr"}}, "encoder = "),
    "an unknown merge": (GOOD | {"encoder": {"encoder": "EncoderTom"}}, "mean 'EncoderToMe'"),
    "a merge out of range": (
        GOOD | {"encoder": {"encoder": "EncoderToMe", "options": {"r": -1}}},
        "r = -1",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_files_are_named_with_what_is_wrong(tmp_path, case):
    content, said = BROKEN[case]
    path = tmp_path / "broken.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(lftr.LftrError, match=said.replace("[]", r"\[\]")) as error:
        Preset.load(path)
    assert f"preset = '{path}'" in str(error.value)


def test_files_that_cannot_be_read_or_written(tmp_path):
    with pytest.raises(lftr.LftrError, match="a file to read"):
        Preset.load(tmp_path / "absent.json")
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(lftr.LftrError, match=r"bytes\.json"):
        Preset.load(tmp_path / "bytes.json")
    preset = Preset(lftr.get_method("lftr"), tokens=4)
    for path in (tmp_path / "absent" / "preset.json", tmp_path):
        with pytest.raises(lftr.LftrError, match="a file"):
            check_writable(path)
        with pytest.raises(lftr.LftrError, match="a file to write"):
            preset.save(path)


def test_another_model_is_noted():
    preset = Preset(lftr.get_method("lftr"), tokens=4, model="llava-hf/llava-1.5-7b-hf")
    assert preset.note("/models/llava-1.5-7b-hf/") is None
    assert "llava-1.5-7b-hf, and is used on bundled" in preset.note("bundled")
    assert Preset(lftr.get_method("lftr"), tokens=4).note("bundled") is None


def test_a_loaded_model_knows_its_name():
    model, _ = bundled.load()
    assert model_name(model) == "bundled"
    assert Preset(lftr.get_method("lftr"), 1 / 4, model="bundled").note(model) is None
    model.config.name_or_path = model.name_or_path = "org/other"
    assert model_name(model) == "org/other"


def test_options_that_no_file_can_hold_are_refused():
    with pytest.raises(lftr.LftrError, match="values that JSON has"):
        to_plain([torch.zeros(1)])
