"""Qwen3.5 on vLLM's own kernels of linear attention, which compute in bfloat16 on CPUs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from . import tiny
from .engines import Question, Served, ask, engine, recorded

ASKED = (Question(((40, 36),), 1), Question(((4, 32, 24),), 2), Question((), 3))


def test_own_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All kept is the stock model's answer; what is reduced is what transformers keeps."""

    class Wide(type(tiny.ENTRIES["qwen3_5"])):  # type: ignore[misc]
        def config(self) -> Any:
            config = super().config()
            text = config.text_config
            text.linear_key_head_dim = text.linear_value_head_dim = 128
            text.mamba_ssm_dtype = "float32"  # as hubs have it
            return config

    monkeypatch.setitem(tiny.ENTRIES, "qwen3_5", Wide())
    checkpoint = tiny.make("qwen3_5", tmp_path)
    with engine(checkpoint, checkpoint.stock, dtype="bfloat16") as llm:
        stock = ask(llm, checkpoint, *ASKED)
    with engine(checkpoint, f"Lftr{checkpoint.stock}", Served.SETTING, dtype="bfloat16") as llm:
        cache = llm.llm_engine.vllm_config.cache_config
        assert cache.mamba_ssm_cache_dtype == "float32"  # as the stock model's hooks ask for
        served = Served(checkpoint, llm, {})
        assert served.ask(*(replace(one, keep=1.0) for one in ASKED)) == stock
        for one in ASKED[:2]:
            question = replace(one, keep=0.25, method="uniform")
            with recorded() as chosen:
                (answer,) = served.ask(question)
            wanted, decisions = served.on_transformers(question)
            assert [c.index.tolist() for c in chosen] == [d.index.tolist() for d in decisions]
            assert answer.prompt == wanted.prompt
            assert served.ask(question) == [answer]
