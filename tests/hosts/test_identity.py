"""keep=1.0 changes no bit, and encodes no image twice."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from zoo import RELEASE

import lftr
from lftr.hosts.transformers.families import family_of

from .support import ALL, ROWS, WIDE, Prompt, Row, ZooEntry, reduced


def tensors(value: Any) -> list[Tensor]:
    """Every tensor of an output, however deep."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        return [x for part in value.values() for x in tensors(part)]
    if isinstance(value, (list, tuple)):
        return [x for part in value for x in tensors(part)]
    if hasattr(value, "layers"):
        return [x for layer in value.layers for x in tensors(vars(layer))]
    return []


def assert_same(found: Any, expected: Any) -> None:
    assert type(found) is type(expected)
    pairs = list(zip(tensors(found), tensors(expected), strict=True))
    assert pairs
    for left, right in pairs:
        torch.testing.assert_close(left, right, rtol=0, atol=0, equal_nan=True)


@pytest.fixture(params=ALL, ids=str)
def entry(request: pytest.FixtureRequest) -> ZooEntry:
    """A family that is shown images, clips, or both."""
    value: ZooEntry = request.param
    return value


@pytest.mark.parametrize("rows", [ROWS, [WIDE]], ids=["batch", "single"])
def test_generate(entry: ZooEntry, rows: list[Row]) -> None:
    prompt = Prompt(entry, rows)
    options = {"output_hidden_states": True, "output_scores": True}
    plain = prompt.generate(**options)
    with reduced(prompt.model, keep=1.0) as run:
        assert_same(prompt.generate(**options), plain)
    assert run.report.kept == run.report.tokens > 0
    with reduced(prompt.model, keep=0.4):
        assert not torch.equal(prompt.generate().logits[0], plain.logits[0])


@pytest.mark.parametrize("given", ["left", "right", "no mask", "hidden states"])
def test_forward(entry: ZooEntry, given: str) -> None:
    if entry.name == "gemma4_unified" and RELEASE < (5, 24):
        pytest.skip("its output has image_hidden_states only where pixels are given, not features")
    if "omni" in entry.name and given == "no mask" and RELEASE < (5, 23):
        pytest.skip("without a mask its output has rope_deltas of another shape")
    prompt = Prompt(entry, ROWS if given in ("left", "right") else [WIDE])
    inputs = prompt.inputs("right" if given == "right" else "left")
    if given == "no mask":
        del inputs["attention_mask"]
    if given == "hidden states":
        inputs["output_hidden_states"] = True
    plain = prompt.model(**inputs)
    with lftr.reduce(prompt.model, "random", keep=1.0):
        assert_same(prompt.model(**inputs), plain)


@pytest.mark.parametrize("keep", [1.0, 0.4])
@pytest.mark.parametrize("beams", [1, 3])
def test_encodes_once(entry: ZooEntry, keep: float, beams: int) -> None:
    prompt = Prompt(entry)
    if entry.traits.thinned and keep == 1.0 and beams > 1:  # the plain model cannot either
        with lftr.reduce(prompt.model, "random", keep=keep), pytest.raises(lftr.LftrError):
            prompt.generate(num_beams=beams)
        return
    family = family_of(prompt.model)
    calls: list[Any] = []
    media = [medium for medium in family.media if medium.present_in(prompt.inputs())]
    handles = [
        family.module(prompt.model, tower).register_forward_pre_hook(
            lambda module, args: calls.append(args)
        )
        for tower in {medium.tower for medium in media}
    ]
    with lftr.reduce(prompt.model, "random", keep=keep):
        prompt.generate(num_beams=beams)
    for handle in handles:
        handle.remove()
    assert len(calls) == len(media) * entry.traits.passes


@pytest.mark.parametrize("method", lftr.list_methods("before"))
def test_no_method_is_asked(llava: ZooEntry, method: str) -> None:
    prompt = Prompt(llava)
    plain = prompt.generate()
    with reduced(prompt.model, method, keep=1.0) as run:
        assert_same(prompt.generate(), plain)
    assert run.method.selections == []
