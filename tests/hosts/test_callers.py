"""What callers bring along: caches, criteria, configurations, masks; and what they leave."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
import weakref
from typing import Any

import pytest
import torch
import zoo
from transformers import DynamicCache, GenerationConfig, StaticCache
from zoo import Image

import lftr
from lftr import LftrError

FAMILIES = ["llava", "qwen2_5_vl"]
OPTIONS: dict[str, Any] = {"max_new_tokens": 4, "do_sample": False}


@pytest.fixture(params=FAMILIES)
def prompt(request: Any) -> tuple[Any, dict[str, Any], int]:
    entry = zoo.FAMILIES[request.param]
    model = entry.model()
    inputs = entry.inputs(model, entry.rows([[3, Image("wide"), 5]]))
    return model, inputs, inputs["input_ids"].shape[1]


def longer(inputs: dict[str, Any], ids: torch.Tensor) -> dict[str, Any]:
    """The same inputs with more text behind them."""
    extra = ids.shape[1] - inputs["input_ids"].shape[1]
    found = dict(inputs, input_ids=ids, attention_mask=torch.ones_like(ids))
    if "mm_token_type_ids" in inputs:
        types = inputs["mm_token_type_ids"]
        found["mm_token_type_ids"] = torch.cat([types, types.new_zeros(1, extra)], dim=1)
    return found


@pytest.mark.parametrize("kind", ["dynamic", "static"])
@pytest.mark.parametrize("as_dict", [True, False])
@pytest.mark.parametrize("again", [True, False], ids=["pixels again", "ids alone"])
def test_the_callers_own_cache(prompt: Any, kind: str, as_dict: bool, again: bool) -> None:
    model, inputs, _ = prompt
    text = model.config.get_text_config()
    cache = DynamicCache(config=text) if kind == "dynamic" else StaticCache(text, max_cache_len=120)
    with lftr.reduce(model, "uniform", tokens=3):
        out = model.generate(
            **inputs, past_key_values=cache, return_dict_in_generate=as_dict, **OPTIONS
        )
        ids = torch.cat([out.sequences if as_dict else out, torch.tensor([[20, 21, 22]])], dim=1)
        whole = longer(inputs, ids)
        want = model.generate(**whole, **OPTIONS)
        names = ("input_ids", "attention_mask", "mm_token_type_ids")
        turn = whole if again else {n: whole[n] for n in names if n in whole}
        got = model.generate(**turn, past_key_values=cache, **OPTIONS)
    assert torch.equal(got, want)


def test_a_tuple_output_marks_its_cache(prompt: Any) -> None:
    model, inputs, _ = prompt
    step = torch.tensor([[20]])
    with torch.no_grad(), lftr.reduce(model, "uniform", tokens=3):
        first = model(**inputs, use_cache=True, return_dict=False)
        cache = next(part for part in first if isinstance(part, DynamicCache))
        got = model(input_ids=step, past_key_values=cache).logits
        whole = longer(inputs, torch.cat([inputs["input_ids"], step], dim=1))
        want = model(**whole).logits
    torch.testing.assert_close(got[:, -1], want[:, -1], rtol=0, atol=2e-5)


def test_criteria_and_processors_see_the_callers_prompt(prompt: Any) -> None:
    model, inputs, length = prompt
    seen: dict[str, list[Any]] = {"criteria": [], "processor": [], "allowed": []}

    def stop(ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        seen["criteria"].append(ids.shape[1])
        return torch.full((len(ids),), ids.shape[1] >= length + 3)

    def process(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        seen["processor"].append(ids[0, :length].tolist())
        return scores

    def allowed(row: int, ids: torch.Tensor) -> list[int]:
        seen["allowed"].append(len(ids))
        return list(range(20, 40))

    with lftr.reduce(model, "uniform", tokens=3):
        out = model.generate(
            **inputs,
            max_new_tokens=9,
            do_sample=False,
            stopping_criteria=[stop],
            logits_processor=[process],
            prefix_allowed_tokens_fn=allowed,
        )
    assert out.shape[1] == length + 3
    assert seen["criteria"] == [length + 1, length + 2, length + 3]
    assert all(ids == inputs["input_ids"][0].tolist() for ids in seen["processor"])
    assert seen["allowed"] == [length, length + 1, length + 2]
    assert all(20 <= token < 40 for token in out[0, length:].tolist())


def test_a_configuration_is_copied(prompt: Any) -> None:
    model, inputs, length = prompt
    config = GenerationConfig(max_length=length + 3, do_sample=False, pad_token_id=0)
    with lftr.reduce(model, "uniform", tokens=3):
        out = model.generate(**inputs, generation_config=config)
    assert out.shape[1] == length + 3
    assert config.max_length == length + 3


def test_received_is_counted_over_chunks(prompt: Any) -> None:
    model, inputs, length = prompt
    options = {**OPTIONS, "prefill_chunk_size": 4}
    if zoo.RELEASE < (5, 23):  # no chunk is given the images
        with (
            lftr.reduce(model, "uniform", tokens=3),
            pytest.raises(LftrError, match="chunk_size = 4"),
        ):
            model.generate(**inputs, **options)
        return
    with lftr.reduce(model, "uniform", tokens=3) as reduction:
        model.generate(**inputs, **options)
    report = reduction.report
    assert report.received == length - report.tokens + report.kept > 4


def test_hidden_placeholders_and_embeddings_are_refused(prompt: Any) -> None:
    model, inputs, _ = prompt
    mask = inputs["attention_mask"].clone()
    mask[:, 5:8] = 0
    embeds = model.get_input_embeddings()(inputs["input_ids"] % 100)
    with lftr.reduce(model, "uniform", tokens=3):
        with pytest.raises(LftrError, match="attention_mask hides"):
            model(**inputs | {"attention_mask": mask})
        with pytest.raises(LftrError, match="inputs_embeds cannot"):
            model.generate(**inputs, inputs_embeds=embeds, **OPTIONS)


def test_a_call_that_fails_marks_no_other_cache() -> None:
    entry = zoo.FAMILIES["llava"]
    model = entry.model()
    inputs = entry.inputs(model, [[3, Image("wide"), 5]])
    words = torch.tensor([[20, 21, 22]])
    plain = model(input_ids=words, use_cache=True).past_key_values

    def fail(*_: Any) -> None:
        raise MemoryError

    with torch.no_grad(), lftr.reduce(model, "uniform", tokens=3):
        handle = model.get_output_embeddings().register_forward_pre_hook(fail)
        with pytest.raises(MemoryError):
            model(**inputs)
        handle.remove()
        step = torch.tensor([[23]])
        model(input_ids=step, past_key_values=plain)
        last = model(input_ids=step, past_key_values=plain).logits[0, -1]
    whole = torch.cat([words, step, step], dim=1)
    torch.testing.assert_close(last, model(input_ids=whole).logits[0, -1], rtol=0, atol=2e-5)


def test_a_model_without_its_head_is_refused_and_left_alone() -> None:
    base = zoo.FAMILIES["llava"].model().base_model
    hooks = len(base._forward_hooks), len(base._forward_pre_hooks)
    with pytest.raises(LftrError, match="with its head"):
        lftr.reduce(base, "uniform", tokens=3)
    assert (len(base._forward_hooks), len(base._forward_pre_hooks)) == hooks


def test_a_reduced_model_is_not_copied_and_not_kept_alive() -> None:
    model = zoo.FAMILIES["llava"].build()
    reduction = lftr.reduce(model, "uniform", tokens=3)
    for attempt in (copy.deepcopy, pickle.dumps):
        with pytest.raises(LftrError, match="cannot be copied"):
            attempt(model)
    gone = weakref.ref(model)
    del model, reduction
    gc.collect()  # what lies on a model knows the model: a cycle, as long as the reduction is on
    assert gone() is None


def test_a_thread_that_ended_does_not_hold_the_model() -> None:
    model = zoo.FAMILIES["llava"].build()
    thread = threading.Thread(target=lambda: lftr.reduce(model, "uniform", tokens=3))
    thread.start()
    thread.join()
    with lftr.reduce(model, "uniform", tokens=4) as reduction:
        entry = zoo.FAMILIES["llava"]
        model(**entry.inputs(model, [[3, Image("wide"), 2]]))
    assert reduction.report.kept == 4
