"""Reductions that are used twice, and reductions that nobody holds any more."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import lftr

from .support import Prompt, ZooEntry, fresh
from .test_lifetime import traces, warmed


def columns(prompt: Prompt, reduction: Any) -> int:
    """Columns that the language model received in a call under a reduction."""
    reduction.report.received = 0
    prompt.forward()
    received: int = reduction.report.received
    return received


@pytest.mark.parametrize("method", ["uniform", "fastv"])
def test_a_second_block_reduces_as_the_first(llava: ZooEntry, method: str) -> None:
    prompt = warmed(llava)
    before, plain = traces(prompt.model), prompt.forward().logits
    reduction = lftr.reduce(prompt.model, method, keep=0.4 if method == "uniform" else 0.8)
    with reduction:
        first = prompt.forward().logits
        tokens = reduction.report.average
    assert torch.equal(prompt.forward().logits, plain)
    with reduction as again:
        assert again is reduction
        reduction.report.items = []
        assert torch.equal(prompt.forward().logits, first)
        assert reduction.report.average == tokens < reduction.report.tokens
    assert traces(prompt.model) == before


def test_nested_blocks_of_one_reduction(llava: ZooEntry) -> None:
    prompt = warmed(llava)
    before = traces(prompt.model)
    full = prompt.forward().logits.shape[1]
    with lftr.reduce(prompt.model, "uniform", tokens=3) as reduction:
        with reduction:
            assert columns(prompt, reduction) < full
        assert columns(prompt, reduction) < full
    assert traces(prompt.model) == before


def test_a_reduction_comes_back_on_top(llava: ZooEntry) -> None:
    prompt = warmed(llava)
    first = lftr.reduce(prompt.model, "uniform", tokens=3)
    first.remove()
    with lftr.reduce(prompt.model, "uniform", tokens=7) as other:
        with first:
            prompt.generate(1)
            assert (first.report.kept, other.report.kept) == (9, 0)
        prompt.generate(1)
        assert (first.report.kept, other.report.kept) == (9, 21)


def test_a_block_that_raises_can_be_entered_again(llava: ZooEntry) -> None:
    prompt = warmed(llava)
    reduction = lftr.reduce(prompt.model, "uniform", tokens=3)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), reduction:
            raise ZeroDivisionError
        assert not reduction.on
    with reduction:
        assert reduction.on


def test_a_removed_reduction_prepares_nothing(llava: ZooEntry) -> None:
    prompt = warmed(llava)
    reduction = lftr.reduce(prompt.model, "uniform", tokens=3)
    reduction.remove()
    with pytest.raises(lftr.LftrError, match="is off"):
        reduction.prepare(**prompt.inputs())


def test_a_cell_that_ran_twice(llava: ZooEntry) -> None:
    """The handle of the first is lost; the model still tells, and comes clean."""
    prompt = warmed(llava)
    before = traces(prompt.model)
    for count in (7, 3):
        reduction = lftr.reduce(prompt.model, "uniform", tokens=count)
    found = lftr.reductions(prompt.model)
    assert found[-1] is reduction
    assert [one.host.plan.keep for one in found] == [7, 3]
    lftr.restore(prompt.model)
    assert lftr.reductions(prompt.model) == []
    assert not reduction.on
    assert traces(prompt.model) == before
    lftr.restore(prompt.model)  # a second time does nothing
    with reduction:
        assert lftr.reductions(prompt.model) == [reduction]


def test_wrapped_models_tell_too(llava: ZooEntry) -> None:
    model = fresh(llava)
    wrapped = torch.compile(model, backend="eager")
    with lftr.reduce(wrapped, "uniform", tokens=3) as reduction:
        assert lftr.reductions(wrapped) == lftr.reductions(model) == [reduction]
        lftr.restore(wrapped)
        assert lftr.reductions(model) == []


@pytest.mark.parametrize("wrong", [None, "llava", 3])
def test_reductions_of_what_is_no_module(wrong: Any) -> None:
    for function in (lftr.reductions, lftr.restore):
        with pytest.raises(lftr.LftrError, match=r"model = .*allowed: a torch.nn.Module"):
            function(wrong)


def test_a_module_in_a_second_block() -> None:
    model = nn.Sequential(nn.Linear(4, 6))
    states = torch.randn(2, 9, 4)
    reduction = lftr.reduce_module(model[0], "uniform", tokens=3)
    for _ in range(2):
        with reduction:
            assert model(states).shape == (2, 3, 6)
            assert lftr.reductions(model) == [reduction]
        assert model(states).shape == (2, 9, 6)
    other = lftr.reduce_module(model[0], "uniform", tokens=5)
    with reduction:  # the last one that was laid on acts
        assert model(states).shape == (2, 3, 6)
    assert model(states).shape == (2, 5, 6)
    assert lftr.reductions(model) == [other]
    lftr.restore(model)
    assert model(states).shape == (2, 9, 6)
    assert not model[0]._forward_hooks
