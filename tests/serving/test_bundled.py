"""The bundled model: greedy answers of a server equal those of `lftr.reduce` on transformers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

import lftr
from lftr import bundled, suites
from lftr.prompting import inputs_of
from lftr.values.budget import as_arguments

NEW = 4


@pytest.fixture(scope="module")
def trained() -> tuple[Any, Any]:
    return bundled.load()


@pytest.fixture(scope="module")
def llm() -> Iterator[Any]:
    from vllm import LLM

    llm = LLM(
        str(bundled.path()),
        hf_overrides={"architectures": ["LftrLlavaForConditionalGeneration"]},
        distributed_executor_backend="uni",
        dtype="float32",
        enforce_eager=True,
        max_num_seqs=16,
        block_size=32,
    )
    yield llm
    llm.llm_engine.engine_core.shutdown()


@pytest.mark.parametrize(("method", "keep"), [("lftr", 1 / 16), ("divprune", 1 / 4), ("lftr", 1.0)])
def test_answers_as_on_transformers(
    trained: tuple[Any, Any], llm: Any, method: str, keep: float
) -> None:
    from vllm import SamplingParams

    model, processor = trained
    token = model.config.image_token_id
    requests: list[Any] = []
    wanted = []
    for example in suites.load("scenes", split="test", n=12):
        inputs = inputs_of(processor, [example.image], example.question)
        ids = inputs["input_ids"][0].tolist()
        with (
            torch.inference_mode(),
            lftr.reduce(model, method, **as_arguments(keep)),
        ):
            out = model.generate(**inputs, max_new_tokens=NEW, do_sample=False, eos_token_id=None)
        wanted.append(out[0, len(ids) :].tolist())
        single = [n for i, n in enumerate(ids) if n != token or ids[i - 1] != token]
        media = {"image": example.image}
        chosen = {"lftr": {"method": method, **as_arguments(keep)}}
        requests.append(
            {"prompt_token_ids": single, "multi_modal_data": media, "mm_processor_kwargs": chosen}
        )
    greedy = SamplingParams(max_tokens=NEW, temperature=0, ignore_eos=True)
    outputs = llm.generate(requests, greedy, use_tqdm=False)
    assert [list(output.outputs[0].token_ids) for output in outputs] == wanted
