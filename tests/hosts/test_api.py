"""One file knows what transformers calls things, and it checks that this is still so."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers.cache_utils import CacheLayerMixin
from transformers.modeling_layers import GradientCheckpointingLayer
from zoo import FAMILIES, RELEASE, Image

import lftr
from lftr.hosts.transformers import api

from .support import Prompt, distance, fresh

HOST = Path(api.__file__).parent
# What transformers renamed once, and functions of its own: in no form, be it an attribute.
PRIVATE = {*api._CACHE_NAMES[1:], api._ROLES["encoded"], api.EXPAND, api._PLACE}
PRIVATE |= {"_attn_implementation"}
# What it calls the arguments of a call: in no literal, but where lftr's own role is called so too.
ARGUMENTS = {*api._ROLES.values(), *api._CACHE_NAMES, *api._BORDERS, *api._EXTRA_OUTPUTS}
ARGUMENTS |= {api.GENERATION}
ARGUMENTS -= set(api._ROLES)


def names_in(path: Path) -> set[str]:
    """String literals, attributes and keyword arguments of a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    found |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    found |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.keyword)}
    return {name for name in found if isinstance(name, str)}


def literals_in(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and type(n.value) is str}


@pytest.mark.parametrize(
    "path",
    [path for path in sorted(HOST.rglob("*.py")) if path.name != "api.py"],
    ids=lambda path: str(path.relative_to(HOST)),
)
def test_no_other_file_names_what_transformers_renames(path: Path) -> None:
    assert not names_in(path) & PRIVATE
    assert not literals_in(path) & ARGUMENTS


def test_the_names_are_those_of_this_release() -> None:
    parameters = inspect.signature(transformers.LlamaModel.forward).parameters
    assert api.CallArguments.name("cache") in parameters
    for role in ("ids", "embeds", "mask", "positions", "caching"):
        assert api.CallArguments.name(role) in parameters


def test_a_cache_is_found_under_both_names() -> None:
    cache = transformers.DynamicCache()
    for name in ("cache", "past_key_values"):
        call = api.CallArguments({name: cache})
        assert call.cache is cache
        assert call.but(cache=None) == {name: None}
    assert api.CallArguments().but(cache=cache) == {api.CallArguments.name("cache"): cache}


@pytest.mark.skipif(RELEASE < (5, 24), reason="before 5.24 a cache has one name")
@pytest.mark.parametrize("method", ["lftr", "pyramiddrop"])
def test_a_second_turn_under_both_names(method: str) -> None:
    """The old name still works in 5.24, where generate and forward rename it inside the call."""
    prompt = Prompt(FAMILIES["llava"], [[3, Image("wide"), 4]])
    inputs = prompt.inputs()
    one = {"max_new_tokens": 1, "return_dict_in_generate": True, "output_logits": True}
    found = []
    with lftr.reduce(prompt.model, method, keep=0.5) as reduction:
        for name in ("cache", "past_key_values"):
            first = prompt.model.generate(**inputs, **one)
            longer = torch.cat([first.sequences, torch.tensor([[21, 22]])], dim=1)
            turn = {"input_ids": longer, "attention_mask": torch.ones_like(longer)}
            later = prompt.model.generate(**turn, **{name: getattr(first, name)}, **one)
            found.append(later.logits[0])
        if method == "lftr":  # the other one's choice is made by the last token
            found.append(prompt.model.generate(**inputs | turn, **one).logits[0])
        assert reduction.report.kept < reduction.report.tokens or method != "lftr"
    assert all(distance(logits, found[0]) < 1e-5 for logits in found)


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("_expand_multimodal_outputs", lambda self, input_ids, outputs, size=1: outputs),
        ("_prepare_position_ids_for_generation", lambda self, inputs: inputs),
        ("_prepare_position_ids_for_generation", None),
    ],
)
def test_private_functions_that_changed_are_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, changed: Any
) -> None:
    model = fresh(FAMILIES["llava"])
    before = dict(vars(model))
    monkeypatch.setattr(type(model), name, changed)
    with pytest.raises(lftr.LftrError, match=rf"{name}.*transformers {transformers.__version__}"):
        lftr.reduce(model, "lftr", keep=0.5)
    assert vars(model) == before


@pytest.mark.parametrize(
    ("owner", "name", "said"),
    [
        (transformers.Cache, "get_query_offset", "a cache has no get_query_offset"),
        (CacheLayerMixin, "is_compileable", "a cache's layer has no is_compileable"),
        (GradientCheckpointingLayer, api.CHECKPOINTED, "a checkpointed layer has no"),
        (transformers.GenerationMixin, "generate", "generate has no generation_config, inputs, "),
    ],
)
def test_names_whose_absence_nothing_would_show_are_looked_for(
    monkeypatch: pytest.MonkeyPatch, owner: type, name: str, said: str
) -> None:
    model = fresh(FAMILIES["llava"])
    before = dict(vars(model))
    if name == "generate":
        monkeypatch.setattr(owner, name, lambda self, prompt: prompt)
    else:
        monkeypatch.delattr(owner, name)
    api.check_names.cache_clear()
    with pytest.raises(lftr.UnsupportedModelError, match=said):
        lftr.reduce(model, "lftr", keep=0.5)
    assert vars(model) == before


def test_old_releases_are_refused_and_new_ones_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "RELEASE", (5, 17))
    with pytest.raises(lftr.LftrError, match=r"too old; lftr needs at least 5\.18"):
        api.check_release()
    monkeypatch.setattr(api, "RELEASE", api.CEILING)
    with pytest.warns(UserWarning, match="lftr verify"):
        api.check_release()


def test_the_bounds_are_those_of_the_package() -> None:
    project = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    low, high = (".".join(map(str, release)) for release in (api.FLOOR, api.CEILING))
    assert f'"transformers>={low},<{high}"' in project


def test_says_when_a_release_is_out_that_is_not_allowed_yet() -> None:
    """Warns and never fails: raising the bound is a change of its own, after all tests ran."""
    index = [sys.executable, "-m", "pip", "index", "versions", "transformers"]
    try:
        found = subprocess.run(index, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        pytest.skip("no package index within reach")
    newest = re.search(r"\((\d+)\.(\d+)", found.stdout)
    if newest is not None and (int(newest[1]), int(newest[2])) >= api.CEILING:
        warnings.warn(
            f"transformers {newest[1]}.{newest[2]} is out: run the tests on it and raise the bound",
            stacklevel=1,
        )
