"""Gemma 3: two-way attention within images, crops, and line breaks that join those of a prompt."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from . import tiny
from .engines import Question, Served, Spelled, ask, engine, recorded
from .two_way import two_way

CROPS = {
    "do_pan_and_scan": True,
    "pan_and_scan_min_crop_size": 8,
    "pan_and_scan_max_num_crops": 3,
    "pan_and_scan_min_ratio_to_activate": 1.2,
}
ASKED = (
    Question(((40, 36),), 1, 0.25, "divprune"),
    Question(((90, 20),), 2, 0.2, "lftr"),
    Question(((20, 64), (40, 36)), 3, 0.1, "pool"),
    Question(((40, 36),), 4, 1.0, "uniform"),
    Question(((24, 60),), 5, 7, "trim"),
)


@dataclass(frozen=True)
class Cropped(Question):
    """A question for a processor that cuts images into crops."""

    def inputs(self, checkpoint: tiny.Tiny) -> dict[str, Any]:
        prompt = self.prompt(checkpoint.sign, checkpoint.film)
        return checkpoint.inputs(prompt, self.images, **CROPS)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> tiny.Tiny:
    return tiny.make("gemma3", tmp_path_factory.mktemp("gemma3"))


@pytest.fixture(scope="module")
def cropping(checkpoint: tiny.Tiny) -> Iterator[Served]:
    options = {"mm_processor_kwargs": CROPS}
    with engine(checkpoint, f"Lftr{checkpoint.stock}", Served.SETTING, **options) as llm:
        yield Served(checkpoint, llm, {})


def cropped(question: Question) -> Cropped:
    return Cropped(**{name: getattr(question, name) for name in Question.__dataclass_fields__})


@pytest.mark.parametrize("weights", ["size", "none"])
def test_two_way_attention(
    checkpoint: tiny.Tiny, weights: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kept tokens of an image see each other: as on transformers, whose own attention is that.

    In one step and in small ones that do not cut an image, as vLLM has them on GPUs.
    """
    seen = two_way(monkeypatch)
    both = replace(checkpoint, two_way=True)
    setting = Served.SETTING | {"weights": weights}
    small = {"max_num_batched_tokens": 48, "max_num_seqs": 4, "disable_chunked_mm_input": True}
    for how in ({}, small):
        with engine(both, f"Lftr{both.stock}", setting, **how) as llm:
            served = Served(both, llm, {}, weights=weights)
            del seen[:]
            wanted = [served.on_transformers(one)[0] for one in ASKED]
            assert ask(llm, both, *ASKED) == wanted
            assert {end - start + 1 for start, end in seen} == {4, 7, 8, 9, 36}
    one_way = Served(checkpoint, served.llm, {}, weights=weights)
    assert [one_way.on_transformers(one)[0] for one in ASKED] != wanted


def test_two_way_attention_of_the_stock_model(
    checkpoint: tiny.Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The replaced attention computes what transformers does, without a reduction too."""
    two_way(monkeypatch)
    both = replace(checkpoint, two_way=True)
    whole = [replace(one, keep=1.0, method="uniform") for one in ASKED]
    plain = [replace(one, keep=None, method=None) for one in ASKED]
    with engine(both, both.stock) as llm:
        served = Served(both, llm, {})
        assert ask(llm, both, *plain) == [served.on_transformers(one)[0] for one in whole]


@pytest.mark.parametrize("method", ["divprune", "lftr", "visionzip", "trim"])
def test_crops(cropping: Served, method: str) -> None:
    """The whole image and each of its crops keep as many, as images of their own do."""
    for sizes, keep in ((((90, 20),), 0.25), (((40, 36), (20, 64)), 5), (((64, 40),), 0.5)):
        question = cropped(Question(sizes, 6, keep, method))
        with recorded() as chosen:
            (answer,) = cropping.ask(question)
        wanted, decisions = cropping.on_transformers(question)
        assert len(decisions) > len(sizes)
        assert [one.index.tolist() for one in chosen] == [one.index.tolist() for one in decisions]
        assert answer == wanted


def test_crops_of_several_requests(cropping: Served) -> None:
    """In one batch, in small steps of the encoder, cached, and all tokens kept."""
    asked = [cropped(replace(one, seed=one.seed + 20)) for one in ASKED]
    together = cropping.ask_together(*asked)
    assert together == [cropping.on_transformers(one)[0] for one in asked]


@pytest.mark.parametrize("name", ["gemma3", "llava"])
def test_wider_heads_for_two_way_attention(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The backend that is asked for their size is one that can look both ways, where vLLM does."""
    from lftr.hosts.vllm.model import slot_weights

    asked: list[bool] = []
    choose = slot_weights.get_attn_backend

    def note(*args: Any, **kwargs: Any) -> Any:
        asked.append(kwargs["use_mm_prefix"])
        return choose(*args, **kwargs)

    monkeypatch.setattr(slot_weights, "get_attn_backend", note)
    checkpoint = tiny.make(name, tmp_path)
    with engine(checkpoint, f"Lftr{checkpoint.stock}", Served.SETTING):
        assert set(asked) == {name == "gemma3"}


def test_two_way_attention_within_crops(
    checkpoint: tiny.Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = two_way(monkeypatch)
    both = replace(checkpoint, two_way=True)
    asked = [cropped(one) for one in ASKED[1:3]]
    options = {"mm_processor_kwargs": CROPS}
    with engine(both, f"Lftr{both.stock}", Served.SETTING, **options) as llm:
        served = Served(both, llm, {})
        del seen[:]
        assert served.ask(*asked) == [served.on_transformers(one)[0] for one in asked]
        assert {end - start + 1 for start, end in seen} == {8, 4}


def test_crops_are_planned_for(cropping: Served) -> None:
    from vllm.multimodal import MULTIMODAL_REGISTRY

    config = cropping.llm.llm_engine.vllm_config.model_config
    info = MULTIMODAL_REGISTRY.create_processor(config).info
    assert info.get_mm_max_tokens_per_item(tiny.LENGTH, {"image": 1}) == {"image": 4 * 36}


def test_line_breaks_become_one_token(checkpoint: tiny.Tiny) -> None:
    """Those of a prompt, and those that the processor puts around an image."""
    three, four = (checkpoint.processor.tokenizer.convert_tokens_to_ids("\n" * n) for n in (3, 4))
    with engine(checkpoint, f"Lftr{checkpoint.stock}", Served.SETTING) as llm:
        served = Served(checkpoint, llm, {})
        for method in ("divprune", "trim"):
            text = f"<s> t9\n{checkpoint.sign}\n\n t20\n t30"
            question = Spelled(((40, 36),), 3, 0.3, method, text=text)
            ids = question.inputs(checkpoint)["input_ids"][0].tolist()
            assert ids.count(three) == ids.count(four) == 1
            with recorded() as chosen:
                (answer,) = served.ask(question)
            wanted, decisions = served.on_transformers(question)
            assert [one.index.tolist() for one in chosen] == [
                one.index.tolist() for one in decisions
            ]
            assert answer == wanted
