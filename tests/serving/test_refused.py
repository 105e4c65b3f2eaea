"""A request that is refused leaves nothing behind in vLLM's caches of items."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import lftr

from . import tiny

MARK = {True: "<|image_pad|>", False: "<image>"}


@pytest.fixture(params=["llava", "qwen2_5_vl", "qwen3_vl"])
def frontend(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Process a prompt with an image as a server does; return what goes to its engine."""
    from vllm.config import ModelConfig
    from vllm.multimodal import MULTIMODAL_REGISTRY
    from vllm.multimodal.cache.lru import LruKeyReplicatedSenderCache

    from lftr.hosts.vllm import register

    register()
    checkpoint = tiny.make(request.param, tmp_path / "model")
    config = ModelConfig(
        str(checkpoint.folder),
        hf_overrides={"architectures": [f"Lftr{checkpoint.stock}"], "lftr": {"keep": "1/4"}},
        max_model_len=64,
        dtype="float32",
    )
    processor = MULTIMODAL_REGISTRY.create_processor(config)
    cache = LruKeyReplicatedSenderCache(config)

    def process(prompt: str, media: Any = None, **setting: Any) -> Any:
        items = processor.info.parse_mm_data(media or {"image": [tiny.image(40, 36)]})
        kwargs = {"lftr": setting} if setting else {}
        return processor(prompt, items, hf_processor_mm_kwargs=kwargs, cache=cache)

    process.config = config  # type: ignore[attr-defined]
    process.cache = cache  # type: ignore[attr-defined]
    process.sign = checkpoint.sign  # type: ignore[attr-defined]
    process.token = MARK[checkpoint.name in tiny.GRIDDED]  # type: ignore[attr-defined]
    return process


def has_data(processed: Any) -> bool:
    """Whether the image goes to the engine with the request."""
    return processed["mm_kwargs"]["image"][0] is not None


def test_an_image_is_sent_once(frontend: Any) -> None:
    good = f"<s> t9 {frontend.sign} t20"
    assert has_data(frontend(good))
    assert not has_data(frontend(good))


def test_an_image_is_sent_once_for_each_text(frontend: Any) -> None:
    """Where the text guides; else, and where all is kept, under its one hash as ever."""
    prompts = [f"<s> t9 {frontend.sign} t20", f"<s> t9 {frontend.sign} t21"]
    for setting, guided in (
        ({}, False),
        ({"method": "divprune"}, False),
        ({"method": "trim", "keep": 1.0}, False),
        ({"method": "trim"}, True),
        ({"method": "lftr", "options": {"relevance": "text"}}, True),
    ):
        sent = [frontend(prompt, **setting) for prompt in (*prompts, prompts[0])]
        (one,), (other,), (again,) = (processed["mm_hashes"]["image"] for processed in sent)
        assert one == again
        assert (one != other) == guided
        assert [has_data(processed) for processed in sent] == [True, guided, False]
        texts = [item and item.get("lftr_question_image") for item in sent[0]["mm_kwargs"]["image"]]
        assert [text is not None for text in texts] == [guided]


def test_a_text_that_is_refused_is_sent_later(frontend: Any) -> None:
    good = f"<s> t9 {frontend.sign} t20"
    assert has_data(frontend(good))
    with pytest.raises(lftr.LftrError, match="the prompt has no text"):
        frontend(f"<s> {frontend.sign}", method="trim")
    assert not has_data(frontend(good))  # the engine has it still
    assert has_data(frontend(good, method="trim"))


def test_a_refused_image_is_sent_with_the_next_request(frontend: Any) -> None:
    good = f"<s> t9 {frontend.sign} t20"
    bad = [("<s> t9 t20", "no place for every image, for 0 of 1")]  # as if truncated
    if frontend.token == MARK[True]:
        bad += [
            (f"{good} t5 {frontend.token} t6", "1 image placeholders without images"),
            (f"<s> t9 {frontend.token}", "ends in image tokens"),
        ]
    for prompt, message in bad:
        with pytest.raises(lftr.LftrError, match=message):
            frontend(prompt)
        assert has_data(frontend(good)), prompt
        with pytest.raises(lftr.LftrError, match=message):  # of an image that the engine has
            frontend(prompt)
        assert not has_data(frontend(good)), prompt
        frontend.cache.clear_cache()


def test_a_prompt_that_is_too_long(frontend: Any) -> None:
    """VLLM refuses it after this, since it is then that its length is known."""
    good = f"<s> t9 {frontend.sign} t20"
    assert len(frontend(f"{good}{' t7' * 60}")["prompt_token_ids"]) > 64
    assert has_data(frontend(good))


@pytest.mark.parametrize("frontend", ["qwen3_vl"], indirect=True)
def test_a_clip_of_one_frame(frontend: Any) -> None:
    """Qwen3-VL's processor refuses it; the answer is a sentence, without the pixels."""
    with pytest.raises(lftr.LftrError, match="the model cannot take these videos: ") as caught:
        frontend(f"<s> t9 {tiny.film_of('qwen3_vl')} t20", media={"video": [tiny.clip(1, 40, 36)]})
    assert len(str(caught.value)) < 400
    assert "array" not in str(caught.value)


@pytest.mark.parametrize("frontend", ["glm4v"], indirect=True)
def test_videos_that_are_not_reduced(frontend: Any) -> None:
    """vLLM alone serves them; its message would be that of a limit."""
    assert has_data(frontend(f"<s> t9 {frontend.sign} t20"))
    with pytest.raises(lftr.ArgumentError, match=r"videos of Glm4v.*; allowed: their frames as im"):
        frontend("<s> t9 t20", media={"video": [tiny.clip(4, 40, 36)]})


@pytest.mark.parametrize("frontend", ["llava"], indirect=True)
def test_a_server_that_prepares_requests_otherwise_does_not_start(
    frontend: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vLLM's own example at start may fail, and its server goes on."""
    from vllm.multimodal.processing import BaseMultiModalProcessor

    from lftr.hosts.vllm.start_check import prepare_example

    def bypassing(self: Any, mm_items: Any, mm_res: Any) -> Any:
        apply = BaseMultiModalProcessor._apply_prompt_updates
        return apply(self, mm_res.prompt_ids, mm_res.prompt_updates)

    prepare_example(frontend.config)
    monkeypatch.setattr(BaseMultiModalProcessor, "_maybe_apply_prompt_updates", bypassing)
    with pytest.raises(lftr.LftrError, match="does not call _apply_prompt_updates for a request"):
        prepare_example(frontend.config)
