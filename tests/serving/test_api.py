"""The plugin compares what it relies on with the vLLM that is installed."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lftr
from lftr.hosts.transformers.families import Family
from lftr.hosts.vllm import ARCHITECTURES, api
from lftr.hosts.vllm.start_options import relied_on

from . import tiny
from .engines import Question, Served, ask, engine

APPLY = "vllm.multimodal.processing:BaseMultiModalProcessor.apply"


@pytest.fixture(autouse=True)
def _checked_anew() -> None:
    api.check.cache_clear()


def test_this_release_has_what_the_plugin_relies_on() -> None:
    api.check(frozenset(api.PARAMETERS))


@pytest.mark.parametrize(
    ("architecture", "options", "used"),
    [
        ("LlavaNext", {}, {"anyres", "positions", "positions of one dimension", "weights"}),
        ("LlavaNext", {"positions": "compact"}, {"anyres", "weights"}),
        ("Idefics3", {"positions": "compact", "weights": "none"}, {"idefics"}),
        ("Gemma3", {"positions": "compact", "weights": "none"}, {"gemma"}),
        ("Qwen2VL", {"weights": "none"}, {"qwen", "positions"}),
    ],
)
def test_what_a_server_uses_is_compared(
    monkeypatch: pytest.MonkeyPatch, architecture: str, options: dict[str, str], used: set[str]
) -> None:
    """By its options and its architecture; what others use may be gone."""
    names = [f"Lftr{architecture}ForConditionalGeneration"]
    parts = relied_on(SimpleNamespace(architectures=names, lftr=options))
    assert parts == used
    for part in api.PARAMETERS:
        api.check.cache_clear()
        changed = {**api.PARAMETERS, part: {"vllm.nowhere:apply": ()}}
        monkeypatch.setattr(api, "PARAMETERS", changed)
        refused = pytest.raises(lftr.LftrError, match=r"vllm\.nowhere\.apply is missing")
        with refused if part in {*used, "every server"} else contextlib.nullcontext():
            api.check(parts)
        monkeypatch.undo()


@pytest.mark.parametrize("part", api.ATTRIBUTES)
def test_attributes_that_nothing_would_miss_are_looked_for(
    monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    gone = f"{api.ATTRIBUTES[part][0]}_of_before"
    monkeypatch.setattr(api, "ATTRIBUTES", {part: (gone,)})
    with pytest.raises(lftr.LftrError, match=rf"{gone.partition('.')[0]}.*_of_before is missing"):
        api.check(frozenset({part}))


@pytest.mark.parametrize("part", api.SPELLED)
def test_functions_that_no_longer_read_an_attribute_are_named(
    monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    for function, names in api.SPELLED[part].items():
        api.check.cache_clear()
        monkeypatch.setattr(api, "SPELLED", {part: {function: (*names, "of_before")}})
        with pytest.raises(lftr.LftrError, match=r"does not name of_before"):
            api.check(frozenset({part}))


def own_classes() -> Iterator[type]:
    """Classes of the plugin that extend one of vLLM."""
    from lftr.hosts import vllm as plugin

    for found in pkgutil.walk_packages(plugin.__path__, f"{plugin.__name__}."):
        for cls in vars(importlib.import_module(found.name)).values():
            if (
                inspect.isclass(cls)
                and cls.__module__ == found.name
                and any(map(theirs, cls.mro()))
            ):
                yield cls


def theirs(cls: type) -> bool:
    return cls.__module__.partition(".")[0] == "vllm"


def overridden(cls: type) -> set[str]:
    """The functions of vLLM that a class or a base of the plugin's replaces, by name.

    Constructors are left out, and what Python writes itself.
    """
    line = cls.mro()
    return {
        name
        for i, one in enumerate(line)
        if one.__module__.startswith("lftr.")
        for name, value in vars(one).items()
        if not name.startswith("__") and inspect.isroutine(value)
        if any(theirs(base) and name in vars(base) for base in line[i + 1 :])
    }


def test_every_function_that_is_overridden_is_compared() -> None:
    """By the name of a class that has it before the plugin's own; else vLLM could rename it."""
    listed = [
        name for part in api.PARAMETERS.values() for name in part if "." in name.split(":")[1]
    ]
    owners = [(api._look_up(name.rpartition(".")[0]), name.rpartition(".")[2]) for name in listed]
    classes = list(own_classes())
    assert len(classes) >= 2 * len(ARCHITECTURES)
    for cls in classes:
        compared = {function for owner, function in owners if owner in cls.mro()}
        assert overridden(cls) <= compared, cls


def test_parts_are_options_or_architectures() -> None:
    modules = {one.module for one in ARCHITECTURES.values()}
    options = {"every server", "positions", "positions of one dimension", "weights"}
    assert api.PARAMETERS.keys() - options <= modules


CALLS = [*api.STEPS, *api.ANY_TIME]


@pytest.mark.parametrize(
    ("calls", "message"),
    [
        ([], "does not call _apply_hf_processor_main"),
        (CALLS[:-1], "does not call _maybe_apply_prompt_updates for a request"),
        (
            [CALLS[1], CALLS[0], *CALLS[2:]],
            "calls _get_mm_fields_config, _apply_hf_processor_main, _get_pr",
        ),
    ],
)
def test_another_order_of_calls_is_refused(calls: list[str], message: str) -> None:
    api.check_order(CALLS[::-1][:2] + CALLS[:4] * 2)
    with pytest.raises(lftr.LftrError, match=message):
        api.check_order(calls)


def test_the_order_is_checked_on_the_first_request(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A release that would put whole items into prompts refuses, which a server does at start."""
    from vllm.multimodal.processing import BaseMultiModalProcessor

    def bypassing(self: Any, mm_items: Any, mm_res: Any) -> Any:
        apply = BaseMultiModalProcessor._apply_prompt_updates
        return apply(self, mm_res.prompt_ids, mm_res.prompt_updates)

    monkeypatch.setattr(BaseMultiModalProcessor, "_maybe_apply_prompt_updates", bypassing)
    checkpoint = tiny.make("llava", tmp_path / "llava")
    message = "does not call _apply_prompt_updates for a request"
    with engine(checkpoint, f"Lftr{checkpoint.stock}", Served.SETTING) as llm:
        for _ in range(2):
            with pytest.raises(lftr.LftrError, match=message):
                ask(llm, checkpoint, Question())
        monkeypatch.undo()
        assert len(ask(llm, checkpoint, Question())) == 1


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        (APPLY, ("self", "prompt"), r"apply takes \(self, inputs, timing_ctx\), not \(self, pr"),
        (APPLY, ("self",), "apply takes"),
        (f"{APPLY}_all", ("self",), "BaseMultiModalProcessor.apply_all is missing"),
        ("vllm.nowhere:apply", (), "vllm.nowhere.apply is missing"),
        ("vllm.nowhere.at_all:apply", (), "vllm.nowhere.at_all.apply is missing"),
        ("vllm.config.multimodal:MultiModalConfig.__doc__", (), "__doc__ is a str, not a function"),
        (
            "vllm.multimodal.hasher:MultiModalHasher.hash_kwargs",
            ("algorithm", "kwargs"),
            r"takes \(algorithm, \*\*kwargs\), not \(algorithm, kwargs\)",
        ),
    ],
)
def test_differences_are_named(
    monkeypatch: pytest.MonkeyPatch, name: str, parameters: tuple[str, ...], message: str
) -> None:
    monkeypatch.setattr(api, "PARAMETERS", {"weights": {name: parameters}})
    with pytest.raises(lftr.LftrError, match=message):
        api.check(frozenset({"weights"}))


def test_a_property_is_no_function(monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.multimodal.processing import BaseMultiModalProcessor

    monkeypatch.setattr(BaseMultiModalProcessor, "apply", property(lambda self: None))
    with pytest.raises(lftr.LftrError, match=r"apply is a property, not a function"):
        api.check(frozenset({"weights"}))


def test_a_library_that_a_module_of_vllm_lacks_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "lacks_a_library.py").write_text("import no_such_library\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(api, "PARAMETERS", {"weights": {"lacks_a_library:apply": ()}})
    message = r"lacks_a_library cannot be imported \(No module named 'no_such_library'\)"
    with pytest.raises(lftr.LftrError, match=message):
        api.check(frozenset({"weights"}))


class Stock(nn.Module):
    """A model of vLLM that returns what it is run with."""

    def forward(self, ids: Tensor, positions: Tensor, *_: object) -> Tensor:
        return positions


def reduced(rewrites_positions: bool) -> nn.Module:
    """A reduced model without its parts, after a step with an image."""
    from lftr.hosts.vllm.model.gaps import Gapped
    from lftr.hosts.vllm.model.slot_weights import StepWeights

    class Reduced(Gapped, Stock):
        def __init__(self) -> None:
            nn.Module.__init__(self)
            self.rewrites_positions = rewrites_positions
            self._channels = 5
            self.family = Family.registry["llava"]
            self.slot_weights = StepWeights(4)
            self.slot_weights.logs.fill_(1)

        def get_language_model(self) -> Any:
            return SimpleNamespace(embed_input_ids=lambda ids: torch.zeros(len(ids), 5))

    return Reduced()


def test_positions_that_vllm_counted_are_refused() -> None:
    rows = torch.arange(3).repeat(3, 1)
    assert torch.equal(reduced(True)(torch.arange(3), rows), rows[0])
    assert torch.equal(reduced(False)(torch.arange(3), rows[0]), rows[0])
    with pytest.raises(lftr.LftrError, match=r"positions of shape \(3,\) to Reduced"):
        reduced(True)(torch.arange(3), rows[0])
    with pytest.raises(lftr.LftrError, match=r"positions of shape \(3, 3\) to Reduced"):
        reduced(False)(torch.arange(3), rows)


def test_a_step_of_ids_has_no_weights_of_the_step_before() -> None:
    model = reduced(False)
    model(torch.arange(3), torch.arange(3), None, torch.ones(3, 2))
    assert model.slot_weights.logs.all()
    model(torch.arange(3), torch.arange(3))
    assert not model.slot_weights.logs.any()


def test_items_without_a_setting_are_refused() -> None:
    """They would be encoded without reduction."""
    with pytest.raises(lftr.LftrError, match="passed pixel_values to embed_multimodal of Reduced"):
        reduced(True).embed_multimodal(pixel_values=torch.zeros(1))


def test_positions_that_were_not_read_are_refused() -> None:
    """Of five channels and two of weights, further ones are those of positions."""
    model = reduced(True)
    slots = torch.tensor([False, True, True])
    embedded = model.embed_input_ids(torch.arange(3), [torch.ones(2, 7)], is_multimodal=slots)
    assert torch.equal(embedded, slots[:, None].float().expand(-1, 5))
    with pytest.raises(lftr.LftrError, match=r"features of \[9\] channels .* not of 5.*recompute"):
        model.embed_input_ids(torch.arange(3), [torch.ones(2, 11)], is_multimodal=slots)
    assert not model.embed_input_ids(torch.arange(3)).any()
