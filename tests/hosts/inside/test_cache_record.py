"""What a cache with fewer columns in some layers carries: copies, pickles, resets, its own end."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from typing import Any

import pytest
import torch
import transformers
from zoo import FAMILIES, Image

import lftr
from lftr.hosts.transformers.api import CallArguments, returned_cache
from lftr.hosts.transformers.cache_record import cached_columns_of
from lftr.methods import FastV

from ..support import Prompt

METHODS = ["lftr", FastV(layer=1, keep=0.5), "pyramiddrop"]


def prompt_of() -> Prompt:
    return Prompt(FAMILIES["llava"], [[3, Image("wide"), 4]])


def filled(prompt: Prompt, method: Any = METHODS[1]) -> Any:
    options: dict[str, Any] = {"keep": 0.5} if isinstance(method, str) else {}
    with lftr.reduce(prompt.model, method, **options):
        return returned_cache(prompt.generate(2))


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_a_cache_ends_with_its_last_reference(method: Any) -> None:
    """Without the collector: a long run would hold gigabytes until that comes by."""
    prompt = prompt_of()
    filled(prompt, method)
    gc.collect()
    gc.disable()
    try:
        gone = weakref.ref(filled(prompt, method))
        assert gone() is None
    finally:
        gc.enable()


@pytest.mark.parametrize(
    "through", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))]
)
def test_the_record_goes_through_copies(through: Any) -> None:
    prompt = prompt_of()
    cache = filled(prompt)
    other = through(cache)
    assert type(other) is type(cache)
    assert isinstance(other, transformers.DynamicCache)
    assert other.get_seq_length() == cache.get_seq_length()
    assert [x is None for x in cached_columns_of(other).kept] == [
        x is None for x in cached_columns_of(cache).kept
    ]


def test_a_cache_that_was_reset_is_a_plain_one_again() -> None:
    prompt = prompt_of()
    cache = filled(prompt)
    plain = prompt.forward().logits
    cache.reset()
    if any(layer.get_seq_length() for layer in cache.layers):
        pytest.skip("reset of this release leaves the keys where they are, as zeros")
    assert cached_columns_of(cache) is None
    assert type(cache) is transformers.DynamicCache
    assert torch.equal(prompt.forward(**{CallArguments.name("cache"): cache}).logits, plain)


def test_the_record_is_found_without_asking_every_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lengths of static layers are on the device: each one asked is one wait for it."""
    cache = filled(prompt_of())
    kind = type(cache.layers[0])
    original, asked = kind.get_seq_length, []

    def counted(layer: Any) -> Any:
        asked.append(layer)
        return original(layer)

    monkeypatch.setattr(kind, "get_seq_length", counted)
    assert cached_columns_of(cache) is not None
    assert set(map(id, asked)) == {id(cache.layers[0])}
