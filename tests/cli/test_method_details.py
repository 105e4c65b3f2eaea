"""`lftr methods NAME`: one method, and spellings that make it."""

from __future__ import annotations

import inspect
import re
import shlex
from typing import Any

import pytest

import lftr as library
from lftr.cli.method_details import details
from lftr.cli.parsing import parse_setting
from lftr.methods.lookup import example_of

COMPOSITIONS = [
    "Adaptive",
    "Coordinates",
    "Merge",
    "MergeInside",
    "Mix",
    "PerFrame",
    "PerTile",
    "Then",
]
WITH_OPTIONS = [
    "Merge(divprune, own=0.5)",
    "lftr(diversity=0.5)",
    "lftr(relevance='text')",
    "fastv(layer=3)",
    "random(seed=3)",
]
EVERY = [*library.list_methods(), *COMPOSITIONS, *WITH_OPTIONS]


@pytest.mark.parametrize("name", EVERY)
def test_every_spelling_makes_the_method(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    method = library.get_method(example_of(name))
    told = details(method)
    words = iter(shlex.split(told["command"])[4:])
    given: dict[str, Any] = dict(zip(words, words, strict=True))
    option = [given["--option"]] if "--option" in given else None
    preset = parse_setting([given["--method"]], given.get("--keep"), None, option)
    assert preset.method == method
    monkeypatch.setattr(library, "reduce", lambda model, one, keep=None: one)
    for line in told["python"]:
        made = eval(line, {"lftr": library, "model": None})
        assert (library.get_method(made) if isinstance(made, str) else made) == method


@pytest.mark.parametrize("name", EVERY)
def test_every_option_is_described(name: str) -> None:
    method = library.get_method(example_of(name))
    told = details(method)
    assert [one["name"] for one in told["options"]] == [*inspect.signature(type(method)).parameters]
    for one in told["options"]:
        assert one["description"], one
        assert not re.search(r"typing|<class|Annotated", one["type"]), one
    assert told["description"].endswith(".")
    assert told["evidence"]


def test_it_is_printed(lftr: Any, reads: Any, fails: Any) -> None:
    text = " ".join(lftr("methods", "fastv").stdout.split())
    assert "acts: inside the language model" in text
    assert "arXiv 2403.06764" in text
    assert "Share or number of tokens from this layer on." in text
    told = {one["name"]: one for one in reads("methods", "trim")["options"]}
    assert told["text_sign"]["allowed"] == "'published', 'positive', 'negative'"
    assert told["text_sign"]["default"] == "'published'"
    assert "did you mean 'divprune'" in fails("methods", "divprun")
