"""Weights of slots: the engine's attention counts a slot as many tokens, as on transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import lftr

from . import tiny
from .engines import Question, Served, engine, model_of

MERGING = tuple(
    Question((size,), seed, keep, method)
    for seed, (size, keep, method) in enumerate(
        [
            ((40, 36), 0.1, "lftr"),
            ((20, 64), 3, "visionzip"),
            ((90, 20), 0.2, "pool"),
            ((64, 64), 0.1, "tome"),
        ]
    )
)


@pytest.fixture
def checkpoint(request: pytest.FixtureRequest, tmp_path: Path) -> tiny.Tiny:
    return tiny.make(request.param, tmp_path / request.param)


@pytest.mark.parametrize(
    "checkpoint", ["llava", "idefics3", "gemma3", "qwen2_5_vl", "qwen3_5"], indirect=True
)
@pytest.mark.parametrize("weights", ["size", 0.5, "none"])
def test_as_on_transformers(checkpoint: tiny.Tiny, weights: Any) -> None:
    """Answers, and by how much heads are wider; other weights answer otherwise."""
    setting = Served.SETTING | {"weights": weights}
    with engine(checkpoint, f"Lftr{checkpoint.stock}", setting) as llm:
        served = Served(checkpoint, llm, {}, weights=str(weights))
        answers = served.ask(*MERGING)
        assert answers == [served.on_transformers(one)[0] for one in MERGING]
        others = Served(checkpoint, llm, {}, weights="none" if weights == "size" else "size")
        assert answers != [others.on_transformers(one)[0] for one in MERGING]
        sizes = {one.head_size for one in attention_of(llm)}
        assert sizes == {tiny.HEAD if weights == "none" else 64}  # the next that CPUs take


def attention_of(llm: Any) -> list[Any]:
    from vllm.model_executor.layers.attention import Attention

    modules = model_of(llm).get_language_model().modules()
    return [module for module in modules if isinstance(module, Attention)]


@pytest.mark.parametrize("checkpoint", ["llava"], indirect=True)
def test_chunks_and_cached_prefixes(checkpoint: tiny.Tiny) -> None:
    """Steps that cut an image, and slots whose keys are in the cache already."""
    question = Question(((80, 80), (40, 36)), 1, 0.8, "pool")
    step = {"max_num_batched_tokens": 16, "max_num_seqs": 4}
    with engine(checkpoint, f"Lftr{checkpoint.stock}", Served.SETTING, **step) as llm:
        served = Served(checkpoint, llm, {})
        wanted = served.on_transformers(question)[0]
        assert served.ask(question) == [wanted]
        (again,) = served.ask(question)
        assert again == wanted
        assert again.cached >= 32


@pytest.mark.parametrize("checkpoint", ["llava"], indirect=True)
def test_what_is_refused_at_start(checkpoint: tiny.Tiny) -> None:
    for setting, options, message in (
        ({"weights": "big"}, {}, "weights = 'big'"),
        ({}, {"kv_cache_dtype": "fp8_e5m2"}, "kv_cache_dtype = 'fp8_e5m2'.*weights = 'none'"),
    ):
        with (
            pytest.raises((lftr.LftrError, ValueError), match=message),
            engine(checkpoint, f"Lftr{checkpoint.stock}", setting, **options),
        ):
            pass


def test_no_backend_takes_the_size(monkeypatch: pytest.MonkeyPatch) -> None:
    from lftr.hosts.vllm.model import slot_weights

    class Backend:
        taken = (160,)

        @classmethod
        def supports_head_size(cls, size: int) -> bool:
            return size in cls.taken

    def backend(size: int, *_: Any, use_mm_prefix: bool) -> type[Backend]:
        if size % 16 or use_mm_prefix:
            raise ValueError("no backend")
        return Backend

    monkeypatch.setattr(slot_weights, "get_attn_backend", backend)
    assert slot_weights.wider_head(128, "auto") == 160
    with pytest.raises(lftr.LftrError, match=r"heads of 136 to 256 channels"):
        slot_weights.wider_head(128, "auto", two_way=True)
    with pytest.raises(lftr.LftrError, match=r"heads of 72 to 128 channels.*weights = 'none'"):
        slot_weights.wider_head(64, "auto")


def test_other_attention_is_refused() -> None:
    from vllm.model_executor.layers.attention import Attention

    from lftr.hosts.vllm.model.slot_weights import StepWeights

    class Other(Attention):
        pass

    construct = Attention.__init__
    with (
        pytest.raises(lftr.LftrError, match="weights of slots with Other"),
        StepWeights(8).widening(),
    ):
        Other(2, 32, 1.0)
    assert Attention.__init__ is construct


def test_a_limit_on_logits_is_refused() -> None:
    """Whatever the attention backend, which may keep the limit under any name."""
    from vllm.model_executor.layers.attention import Attention

    from lftr.hosts.vllm.model.slot_weights import StepWeights

    limited = pytest.raises(lftr.LftrError, match=r"limit on attention logits.*weights = 'none'")
    with StepWeights(8).widening():
        for given in ({"logits_soft_cap": 50.0}, {}):
            args = () if given else (1, None, None, None, None, 50.0)  # by position
            with limited:
                Attention(2, 32, 1.0, *args, **given)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_logarithms_travel(dtype: torch.dtype) -> None:
    """With the slots' features, nearly exactly in half precision, to their places in a step."""
    from lftr.hosts.vllm.model.slot_weights import StepWeights, with_logs

    logs = torch.arange(1, 401).log()
    rows = with_logs(torch.ones(400, 3, dtype=dtype), logs)
    slots = torch.zeros(900, dtype=torch.bool)
    slots[100:300] = slots[500:702] = True
    weights = StepWeights(1000)
    weights.logs += 9  # of a step before
    whole = with_logs(torch.ones(2, 3, dtype=dtype), None)
    bare = weights.taken(900, [rows[:200], rows[200:], whole], slots)
    assert [one.shape for one in bare] == [(200, 3), (200, 3), (2, 3)]
    found = weights.logs[:900]
    assert torch.allclose(found[slots][:400], logs, atol=1e-4)
    assert not found[slots][400:].any()
    assert not found[~slots].any()
