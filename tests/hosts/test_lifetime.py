"""A reduction leaves a model exactly as it was, however it ends."""

from __future__ import annotations

import gc
import threading
import warnings
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

import lftr
from lftr.hosts.transformers.call_state import CallState
from lftr.hosts.transformers.layers.host import LayerHost
from lftr.methods import FastV, PyramidDrop
from lftr.methods.inside.schedules import Step

from .support import Prompt, ZooEntry, fresh, reduced


def traces(model: Any) -> dict[str, Any]:
    """Everything on a model that a reduction could leave behind."""
    found: dict[str, Any] = {"attention": dict(vars(ALL_ATTENTION_FUNCTIONS))}
    found["kernels"] = dict(ALL_ATTENTION_FUNCTIONS)
    for name, module in model.named_modules():
        own = vars(module)
        hooks = {key: list(own[key].values()) for key in own if isinstance(own[key], dict)}
        methods = {key: value for key, value in own.items() if callable(value)}
        found[name] = (sorted(own), hooks, methods)
    return found


def warmed(entry: ZooEntry) -> Prompt:
    """A prompt whose model has run before: some keep state of their last call."""
    prompt = Prompt(entry)
    prompt.generate(1)
    return prompt


class Boom(lftr.Method):
    """A method that fails."""

    def choose(self, tokens: lftr.VisualTokens, keep: int) -> lftr.Selection:
        raise RuntimeError("boom")


def test_restores_exactly(entry: ZooEntry) -> None:
    prompt = warmed(entry)
    before, plain = traces(prompt.model), prompt.generate().sequences
    with lftr.reduce(prompt.model, "lftr", keep=0.4):
        prompt.generate()
        prompt.forward()
        assert traces(prompt.model) != before
    assert traces(prompt.model) == before
    assert torch.equal(prompt.generate().sequences, plain)


def test_restores_after_exceptions(entry: ZooEntry) -> None:
    """From the body, from the method, and from the encoder while its attention is read."""
    prompt = warmed(entry)
    before, plain = traces(prompt.model), prompt.generate().sequences
    with pytest.raises(ZeroDivisionError), lftr.reduce(prompt.model, "lftr", keep=0.4):
        raise ZeroDivisionError
    for call in (prompt.generate, prompt.forward):
        with (
            lftr.reduce(prompt.model, Boom(), keep=0.4),
            pytest.raises(RuntimeError, match="boom"),
        ):
            call()
    with lftr.reduce(prompt.model, "lftr", keep=0.4):
        inputs = prompt.inputs()
        with pytest.raises(Exception, match=r"."):
            prompt.model.generate(**inputs | {"pixel_values": inputs["pixel_values"][..., :2]})
        expected = prompt.generate().sequences
    with lftr.reduce(prompt.model, "lftr", keep=0.4):
        assert torch.equal(prompt.generate().sequences, expected)
    assert traces(prompt.model) == before
    assert torch.equal(prompt.generate().sequences, plain)


def test_the_inner_reduction_replaces_the_outer(llava: ZooEntry) -> None:
    prompt = warmed(llava)
    before = traces(prompt.model)
    with lftr.reduce(prompt.model, "uniform", tokens=7) as outer:
        prompt.generate(1)
        assert outer.report.kept == 21
        with lftr.reduce(prompt.model, "random", tokens=3) as inner:
            prompt.generate(1)
            assert (inner.report.kept, outer.report.kept) == (9, 21)
        inner_before = inner.report.to_dict()["received"]
        prompt.forward()
        assert inner.report.to_dict()["received"] == inner_before < outer.report.received
    assert traces(prompt.model) == before


def test_removal_out_of_order(llava: ZooEntry) -> None:
    prompt = warmed(llava)
    before = traces(prompt.model)
    outer = lftr.reduce(prompt.model, "uniform", tokens=7)
    inner = lftr.reduce(prompt.model, "uniform", tokens=3)
    outer.remove()
    prompt.generate(1)
    assert (inner.report.kept, outer.report.kept) == (9, 0)
    inner.remove()
    inner.remove()
    assert traces(prompt.model) == before


def test_a_generate_of_ones_own_stays(llava: ZooEntry) -> None:
    """An instance's own `generate` is called by the reduction, and is there afterwards."""
    prompt = Prompt(llava, model=fresh(llava))
    calls: list[int] = []
    plain = prompt.model.generate

    def own(*args: Any, **kwargs: Any) -> Any:
        calls.append(kwargs["input_ids"].shape[1])
        return plain(*args, **kwargs)

    prompt.model.generate = own
    full = prompt.inputs()["input_ids"].shape[1]
    with (
        lftr.reduce(prompt.model, "uniform", tokens=3),
        lftr.reduce(prompt.model, "random", tokens=3),
    ):
        prompt.generate(1)
    assert prompt.model.generate is own
    assert len(calls) == 1
    assert calls[0] < full


def test_hooks_of_others_stay(llava: ZooEntry) -> None:
    prompt = Prompt(llava, model=fresh(llava))
    calls: list[int] = []
    prompt.model.register_forward_pre_hook(lambda *_: calls.append(1))
    with lftr.reduce(prompt.model, "uniform", tokens=3):
        prompt.forward()
    prompt.forward()
    assert len(calls) == 2


def test_a_reduction_without_a_block(llava: ZooEntry) -> None:
    prompt = warmed(llava)
    reduction = lftr.reduce(prompt.model, "uniform", tokens=3)
    assert "on" in repr(reduction)
    prompt.generate(1)
    assert reduction.report.kept == 9
    reduction.remove()
    assert "off" in repr(reduction)
    plain = prompt.generate(1)
    assert reduction.report.kept == 9
    with reduced(prompt.model, keep=1.0):
        assert torch.equal(prompt.generate(1).logits[0], plain.logits[0])


METHODS = ["random", "visionzip", FastV(layer=1, keep=0.5), PyramidDrop(Step(1, 0.5))]


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_a_model_ends_with_its_last_reference(llava: ZooEntry, method: Any) -> None:
    """Without the collector: a long run would hold the weights until that comes by."""
    prompt = Prompt(llava, model=fresh(llava))
    seen = weakref.ref(prompt.model)
    options: dict[str, Any] = {"tokens": 3} if isinstance(method, str) else {}
    gc.collect()
    gc.disable()
    try:
        with lftr.reduce(prompt.model, method, **options):
            prompt.generate(1)
            prompt.forward()
        del prompt
        assert seen() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("below", [False, True])
def test_hooks_that_raise_leave_the_model_as_it_was(
    llava: ZooEntry, below: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those hooks that were attached before the one that raises."""
    prompt = Prompt(llava, model=fresh(llava))
    outer = lftr.reduce(prompt.model, "random", keep=0.4) if below else None
    before, expected = traces(prompt.model), prompt.generate().sequences
    attach = LayerHost.hooks

    def some(host: LayerHost, state: CallState) -> Iterator[Any]:
        for number, handle in enumerate(attach(host, state)):
            yield handle
            if number == 2:
                raise RuntimeError("boom")

    monkeypatch.setattr(LayerHost, "hooks", some)
    with pytest.raises(RuntimeError, match="boom"):
        lftr.reduce(prompt.model, "fastv")
    assert traces(prompt.model) == before
    assert torch.equal(prompt.generate().sequences, expected)
    if outer is not None:
        outer.remove()
    monkeypatch.undo()
    with lftr.reduce(prompt.model, "fastv") as reduction:
        prompt.generate()
    assert reduction.report.layers


def test_a_reduction_whose_thread_has_ended_belongs_to_the_next(llava: ZooEntry) -> None:
    """And from then on to it alone: a third thread is refused while the second one lives."""
    model = fresh(llava)
    first = threading.Thread(target=lambda: lftr.reduce(model, "random", keep=0.4))
    first.start()
    first.join()
    taken, done = threading.Event(), threading.Event()

    def second() -> None:
        with lftr.reduce(model, "random", keep=0.4):
            taken.set()
            done.wait(30)

    thread = threading.Thread(target=second)
    thread.start()
    try:
        assert taken.wait(30)
        with pytest.raises(lftr.LftrError, match="another thread"):
            lftr.reduce(model, "random", keep=0.4)
    finally:
        done.set()
        thread.join()
    lftr.reduce(model, "random", keep=0.4).remove()


def test_a_reduction_that_was_never_removed_is_named(llava: ZooEntry) -> None:
    prompt = warmed(llava)
    before = traces(prompt.model)
    lftr.reduce(prompt.model, "uniform", tokens=7)
    lftr.reduce(prompt.model, "random", tokens=3)
    with pytest.warns(UserWarning, match=r"in place of .*uniform.* never removed.*lftr\.restore"):
        prompt.forward()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prompt.forward()  # warned once
        lftr.restore(prompt.model)
        assert traces(prompt.model) == before
        outer = lftr.reduce(prompt.model, "uniform", tokens=7)
        with lftr.reduce(prompt.model, "random", tokens=3) as inner:  # ends by itself
            prompt.forward()
            assert (inner.report.kept, outer.report.kept) == (9, 0)
        with outer:
            inner = lftr.reduce(prompt.model, "random", tokens=3)
            prompt.forward()
            inner.remove()
    assert traces(prompt.model) == before
