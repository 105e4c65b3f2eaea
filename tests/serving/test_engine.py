"""Ways of running an engine: chunks that cut an image, two devices, settings that do not fit."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

import lftr

from . import tiny
from .engines import Question, Served, ask, engine, model_of

QUESTIONS = (
    Question(((80, 80), (40, 36)), 1, 0.8, "divprune"),
    Question(((80, 60),), 2, 0.9, "visionzip"),
    Question(((64, 80),), 3, 1.0),
    Question(((90, 40),), 4, 0.6, "fastervlm"),
    Question((), 5),
)
CLIPS = (
    Question(((8, 32, 24), (40, 36)), 6, 0.7, "lftr"),
    Question(((64, 80), (5, 24, 48)), 7, 0.5, "evs"),
    Question(((6, 40, 32),), 8, 1.0),
)


def questions(checkpoint: tiny.Tiny) -> tuple[Question, ...]:
    return (*QUESTIONS, *CLIPS) if checkpoint.takes_clips else QUESTIONS


def reduced(checkpoint: tiny.Tiny, **options: Any) -> Any:
    return engine(checkpoint, f"Lftr{checkpoint.stock}", Served.SETTING, **options)


@pytest.fixture
def checkpoint(request: pytest.FixtureRequest, tmp_path: Path) -> tiny.Tiny:
    return tiny.make(request.param, tmp_path / request.param)


@pytest.mark.parametrize("checkpoint", ["llava", "qwen2_5_vl", "qwen3_vl"], indirect=True)
def test_chunks_that_cut_an_item(checkpoint: tiny.Tiny) -> None:
    """Steps of 16 tokens, so that every image and clip here comes in several."""
    with reduced(checkpoint) as llm:
        whole = ask(llm, checkpoint, *questions(checkpoint))
    with reduced(checkpoint, max_num_batched_tokens=16, max_num_seqs=4) as llm:
        assert llm.llm_engine.vllm_config.scheduler_config.enable_chunked_prefill
        assert ask(llm, checkpoint, *questions(checkpoint)) == whole
        # each image was encoded by itself, since one has more tokens than a step
        assert model_of(llm).most == 16


@pytest.mark.parametrize("checkpoint", ["llava"], indirect=True)
def test_a_method_that_fails(
    checkpoint: tiny.Tiny, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An engine that raises is gone, with everyone's requests; it says so and goes on instead."""
    with reduced(checkpoint) as llm:
        (even,) = ask(llm, checkpoint, Question(keep=0.4, method="uniform"))

        def fail(*_: Any) -> Any:
            raise ZeroDivisionError("a method's own mistake")

        monkeypatch.setattr(type(lftr.get_method("divprune")), "select_all", fail)
        monkeypatch.setattr(logging.getLogger("vllm"), "propagate", True)
        assert ask(llm, checkpoint, Question(keep=0.4, method="divprune")) == [even]
    assert "lftr: divprune failed; evenly spaced tokens are kept instead" in caplog.text
    assert "a method's own mistake" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("checkpoint", ["llava", "qwen2_5_vl"], indirect=True)
def test_two_devices(checkpoint: tiny.Tiny) -> None:
    """The encoder's heads are divided among two processes, each with its own engine core."""
    with reduced(checkpoint) as llm:
        alone = ask(llm, checkpoint, *questions(checkpoint))
    how = {"tensor_parallel_size": 2, "distributed_executor_backend": "mp"}
    with reduced(checkpoint, **how) as llm:
        assert ask(llm, checkpoint, *questions(checkpoint)) == alone


@pytest.mark.parametrize("checkpoint", ["llava_siglip"], indirect=True)
@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"method": "trim"}, "needs text_embeds"),
        ({"method": "fastv"}, "inside the language model"),
        ({"method": "lftr", "options": {"descriptor": "cls"}}, "needs frame_features"),
        ({"keep": 0}, "keep = 0"),
        ({"preset": "nowhere.json"}, "nowhere.json"),
    ],
    ids=str,
)
def test_a_server_does_not_start(checkpoint: tiny.Tiny, setting: Any, message: str) -> None:
    with (
        pytest.raises(ValueError, match=message) as caught,
        engine(checkpoint, f"Lftr{checkpoint.stock}", setting),
    ):
        pass
    if "method" in setting:
        assert "those that can: " in str(caught.value)


@pytest.mark.parametrize("checkpoint", ["qwen2_vl"], indirect=True)
def test_m_rope_over_pipeline_stages_is_refused(checkpoint: tiny.Tiny) -> None:
    from lftr import LftrError
    from lftr.hosts.vllm import positions

    class Given:
        def __init__(self, stages: int, method: str | None) -> None:
            parallel = {"pipeline_parallel_size": stages}
            self.parallel_config = type("Parallel", (), parallel)()
            speculative = None if method is None else type("Speculative", (), {"method": method})()
            self.speculative_config = speculative

    positions.check(Given(1, None))
    positions.check(Given(1, "ngram"))
    with pytest.raises(LftrError, match="pipeline_parallel_size = 2"):
        positions.check(Given(2, None))
    with pytest.raises(LftrError, match="eagle"):
        positions.check(Given(1, "eagle"))
