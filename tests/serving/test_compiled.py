"""Compiled language models, which is how a server runs unless it is told ``--enforce-eager``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import lftr

from . import tiny
from .engines import Question, Served, ask, engine

MIXED = (
    Question(((80, 80), (40, 36)), 1, 0.5, "lftr"),
    Question(((80, 60),), 2, 0.9, "visionzip"),
    Question(((64, 80),), 3, 1.0),
    Question((), 5),
)


@pytest.mark.parametrize("name", ["llava", "qwen3_vl"])
def test_answers_are_those_of_the_eager_model(name: str, tmp_path: Path) -> None:
    checkpoint = tiny.make(name, tmp_path / name)
    reduced = f"Lftr{checkpoint.stock}"
    with engine(checkpoint, reduced, Served.SETTING) as llm:
        wanted = [ask(llm, checkpoint, one)[0] for one in MIXED]
    with engine(checkpoint, reduced, Served.SETTING, enforce_eager=False) as llm:
        from vllm.config import CompilationMode

        mode = llm.llm_engine.vllm_config.compilation_config.mode
        assert mode not in (None, CompilationMode.NONE)
        assert [ask(llm, checkpoint, one)[0] for one in MIXED] == wanted
        assert ask(llm, checkpoint, *MIXED) == wanted


def test_a_cache_that_ignores_the_mark_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from vllm.config import ModelConfig
    from vllm.engine.arg_utils import EngineArgs

    checkpoint = tiny.make("llava", tmp_path)
    override = {"architectures": [f"Lftr{checkpoint.stock}"], "lftr": Served.SETTING}
    asked = EngineArgs(str(checkpoint.folder), hf_overrides=override, dtype="float32")
    monkeypatch.setattr(ModelConfig, "compute_hash", lambda self: "0")
    with pytest.raises((lftr.LftrError, ValueError), match="a compiled graph of another one"):
        asked.create_engine_config()


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl"])
def test_a_cache_of_graphs_tells_starts_apart(name: str, tmp_path: Path) -> None:
    """vLLM knows a graph on disk by the configuration of the language model, without the rest."""
    from vllm.engine.arg_utils import EngineArgs

    checkpoint = tiny.make(name, tmp_path / name)
    starts: list[dict[str, Any]] = [{}, {"weights": "none"}]
    if name == "llava":
        starts += [{"positions": "compact"}, {"positions": "compact", "weights": "none"}]
    overrides: list[dict[str, Any]] = [{}]
    for start in starts:
        overrides.append(
            {"architectures": [f"Lftr{checkpoint.stock}"], "lftr": Served.SETTING | start}
        )
    keys = []
    for override in overrides:
        asked = EngineArgs(str(checkpoint.folder), hf_overrides=override, dtype="float32")
        config = asked.create_engine_config()
        text = config.model_config.hf_config.get_text_config()
        keys.append(config.with_hf_config(text).compute_hash())
    assert len(set(keys)) == len(overrides)
