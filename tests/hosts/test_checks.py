"""A reduction that cannot hold raises: what transformers does with a call is compared as it runs.

Each test plays a release of transformers that does something else than the host believes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from zoo import FAMILIES, Image

import lftr
from lftr.hosts.transformers.api import CallArguments
from lftr.hosts.transformers.checks import check_received
from lftr.methods import FastV

from .support import Prompt, fresh

ROW = [3, Image("wide"), 4]


def prompt_of(name: str = "llava") -> Prompt:
    entry = FAMILIES[name]
    return Prompt(entry, [list(ROW)], fresh(entry))


def renamed(prompt: Prompt, change: Callable[[CallArguments], CallArguments]) -> None:
    """Let the model hand its language model other arguments than it was given."""
    language_model = prompt.model.base_model.language_model

    def before(module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        return args, dict(change(CallArguments(kwargs)))

    language_model.register_forward_pre_hook(before, with_kwargs=True)


def shortened(call: CallArguments) -> CallArguments:
    return call.but(embeds=call.embeds[:, 1:])


def without_mask_of_one(call: CallArguments) -> CallArguments:
    return call if call.mask is None else call.but(mask=call.mask[:, 1:])


def moved(call: CallArguments) -> CallArguments:
    return call if call.positions is None else call.but(positions=call.positions[..., 1:])


def without_positions(call: CallArguments) -> CallArguments:
    return call.but(positions=None)


def another_cache(call: CallArguments) -> CallArguments:
    return call.but(cache=transformers.DynamicCache())


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (shortened, "the language model got"),
        (without_mask_of_one, "the mask got"),
        (moved, "position_ids got"),
        (without_positions, "position_ids got no value"),
    ],
)
def test_arguments_that_do_not_reach_the_language_model(
    change: Callable[[CallArguments], CallArguments], match: str
) -> None:
    prompt = prompt_of()
    renamed(prompt, change)
    with lftr.reduce(prompt.model, "lftr", keep=0.5), pytest.raises(lftr.LftrError, match=match):
        prompt.forward()


@pytest.mark.parametrize("keep", [0.5, 1.0])
def test_a_cache_that_does_not_reach_the_language_model(keep: float) -> None:
    prompt = prompt_of()
    renamed(prompt, another_cache)
    given = {CallArguments.name("cache"): transformers.DynamicCache()}
    with lftr.reduce(prompt.model, "lftr", keep=keep):
        with pytest.raises(lftr.LftrError, match="cache that was given did not reach"):
            prompt.forward(**given)
        with pytest.raises(lftr.LftrError, match="cache that was given did not reach"):
            prompt.generate(1, **given)


@pytest.mark.parametrize("images", [True, False])
@pytest.mark.parametrize("other", [None, "another"])
def test_a_cache_that_generate_does_not_pass_on(
    monkeypatch: Any, other: str | None, images: bool
) -> None:
    prompt = prompt_of()
    original = prompt.model.prepare_inputs_for_generation

    def prepare(*args: Any, **kwargs: Any) -> dict[str, Any]:
        cache = None if other is None else transformers.DynamicCache()
        return dict(CallArguments(original(*args, **kwargs)).but(cache=cache))

    monkeypatch.setattr(prompt.model, "prepare_inputs_for_generation", prepare)
    inputs = prompt.inputs() if images else {"input_ids": torch.tensor([[20, 21, 22]])}
    inputs |= {CallArguments.name("cache"): transformers.DynamicCache()}
    with (
        lftr.reduce(prompt.model, "lftr", keep=0.5),
        pytest.raises(lftr.LftrError, match="generate did not pass the cache"),
    ):
        prompt.model.generate(**inputs, max_new_tokens=1)


def test_guidance_is_refused() -> None:
    """It calls the model once more in each step, on a prompt of its own."""
    prompt = prompt_of()
    with (
        lftr.reduce(prompt.model, "lftr", keep=0.5),
        pytest.raises(lftr.LftrError, match=r"guidance_scale = 1\.5"),
    ):
        prompt.generate(1, guidance_scale=1.5)


@pytest.mark.parametrize("method", ["lftr", FastV(layer=1, keep=0.5)])
def test_a_layer_that_caches_other_columns(method: Any) -> None:
    """As when keys are cached twice: what PyramidDrop did under a renamed argument."""
    prompt = prompt_of()

    def twice(module: Any, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        layer = CallArguments(kwargs).cache.layers[-1]
        layer.keys = torch.cat([layer.keys, layer.keys[:, :, :1]], dim=2)
        layer.values = torch.cat([layer.values, layer.values[:, :, :1]], dim=2)

    attention = prompt.model.base_model.language_model.layers[-1].self_attn
    attention.register_forward_hook(twice, with_kwargs=True)
    with lftr.reduce(prompt.model, method, keep=0.5 if method == "lftr" else None):
        with pytest.raises(lftr.LftrError, match=r"the cache of layer \d+ got"):
            prompt.forward()
        with pytest.raises(lftr.LftrError, match=r"the cache of layer \d+ got"):
            prompt.generate(1)


@pytest.mark.parametrize("generates", [True, False])
def test_a_language_model_that_is_called_past_its_hooks(generates: bool) -> None:
    prompt = prompt_of()
    base = prompt.model.base_model
    language_model = base.language_model
    del base._modules["language_model"]
    object.__setattr__(base, "language_model", _PastHooks(language_model))
    with lftr.reduce(prompt.model, "lftr", keep=0.5):
        run = prompt.generate if generates else prompt.forward
        with pytest.raises(lftr.LftrError, match="hooks on the language model were not called"):
            run()


class _PastHooks:
    """Calls a module's forward itself, as a compiled graph does."""

    def __init__(self, module: Any) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._module.forward(*args, **kwargs)


def test_layers_that_are_called_past_their_hooks() -> None:
    prompt = prompt_of()
    for layer in prompt.model.base_model.language_model.layers:
        layer._call_impl = layer.forward
    with (
        lftr.reduce(prompt.model, FastV(layer=1, keep=0.5)),
        pytest.raises(lftr.LftrError, match="ran 0 of"),
    ):
        prompt.forward()


def test_what_was_received_is_compared_with_what_was_sent() -> None:
    check_received(12, 12)
    check_received(15, 12)  # assisted decoding's guesses come with the prompt
    with pytest.raises(lftr.LftrError, match="11 columns in total"):
        check_received(11, 12)


def test_a_forward_that_raises_leaves_nothing_behind() -> None:
    """The next call is not compared with the one that was interrupted."""
    prompt = prompt_of()
    norm = prompt.model.base_model.language_model.norm

    def fail(*_: Any) -> None:
        raise RuntimeError("boom")

    with lftr.reduce(prompt.model, "lftr", keep=0.5):
        expected = prompt.forward().logits
        handle = norm.register_forward_pre_hook(fail)
        with pytest.raises(RuntimeError, match="boom"):
            prompt.forward()
        handle.remove()
        assert torch.equal(prompt.forward().logits, expected)
