"""What people wrap a model in: looked through in one place, or refused by name."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lftr
from lftr.values.errors import LftrError, UnsupportedModelError

from .support import FAMILIES, Prompt, ZooEntry, distance, fresh
from .test_lifetime import traces

METHODS = ["lftr", "visionzip", "fastv"]


def answers(prompt: Prompt, model: Any, method: str, **options: Any) -> tuple[Tensor, Any]:
    """Logits of a forward of ``model`` under a reduction of it, and the report."""
    with lftr.reduce(model, method, keep=0.8 if method == "fastv" else 0.4, **options) as reduction:
        logits = model(**prompt.inputs()).logits
        assert lftr.reductions(model) == [reduction]
    assert lftr.reductions(model) == []
    return logits, reduction.report


@pytest.fixture
def gloo() -> Iterator[None]:
    """A process group of one."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    before = dict(os.environ)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.distributed.init_process_group("gloo", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()
    os.environ.clear()
    os.environ |= before


# ---- PEFT --------------------------------------------------------------------------------------


def lora(model: Any, **options: Any) -> Any:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(
        r=2,
        target_modules=r".*language_model.*\.(q_proj|v_proj)",
        init_lora_weights=False,
        task_type="CAUSAL_LM",
        **options,
    )
    return peft.get_peft_model(model, config)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["llava", "llava_next", "qwen2_5_vl"])
def test_lora_is_its_merged_model(name: str, method: str) -> None:
    entry = FAMILIES[name]
    wrapped = Prompt(entry, model=lora(fresh(entry)))
    found, report = answers(wrapped, wrapped.model, method)
    words = {}
    with lftr.reduce(wrapped.model, method, keep=0.8):
        words["lora"] = wrapped.generate(2).sequences
    merged = Prompt(entry, model=wrapped.model.merge_and_unload())
    expected, plain = answers(merged, merged.model, method)
    with lftr.reduce(merged.model, method, keep=0.8):
        words["merged"] = merged.generate(2).sequences
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-4)
    assert [item.positions for item in report.items] == [item.positions for item in plain.items]
    assert torch.equal(words["lora"], words["merged"])
    bare = Prompt(entry)
    assert distance(answers(bare, bare.model, method)[0], expected) > 1e-3  # the weights do matter


def test_lora_laid_on_under_a_reduction(llava: ZooEntry) -> None:
    model = fresh(llava)
    with lftr.reduce(model, "uniform", tokens=3) as reduction:
        wrapped = lora(model)
        prompt = Prompt(llava, model=wrapped)
        prompt.forward()
        assert reduction.report.kept == 9
        assert lftr.reductions(wrapped) == [reduction]


def test_a_projector_that_is_trained_whole(llava: ZooEntry) -> None:
    """PEFT wraps a module that is saved whole; evidence is read at it all the same."""
    wrapped = lora(fresh(llava), modules_to_save=["multi_modal_projector"])
    prompt = Prompt(llava, model=wrapped)
    found, _ = answers(prompt, wrapped, "divprune")
    plain = Prompt(llava, model=wrapped.merge_and_unload())
    torch.testing.assert_close(found, answers(plain, plain.model, "divprune")[0], atol=2e-4, rtol=0)


def test_learned_tokens_are_refused(llava: ZooEntry) -> None:
    peft = pytest.importorskip("peft")
    config = peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    with pytest.raises((UnsupportedModelError, ValueError, AttributeError)) as caught:
        lftr.reduce(peft.get_peft_model(fresh(llava), config), "uniform", tokens=3)
    assert isinstance(caught.value, UnsupportedModelError), "PEFT made no such model"
    assert "PREFIX_TUNING" in str(caught.value)


# ---- torch.distributed -------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_ddp(llava: ZooEntry, gloo: None, method: str) -> None:
    prompt = Prompt(llava)
    expected, _ = answers(prompt, prompt.model, method)
    model = fresh(llava).requires_grad_(True)
    before = traces(model)
    found, _ = answers(prompt, nn.parallel.DistributedDataParallel(model), method)
    assert torch.equal(found, expected)
    assert traces(model) == before


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["llava", "llava_next", "qwen2_5_vl"])
@pytest.mark.parametrize("version", [1, 2])
def test_fsdp(gloo: None, name: str, method: str, version: int) -> None:
    """Parameters are there when the images are encoded, whichever part of the model has them."""
    entry = FAMILIES[name]
    prompt = Prompt(entry)
    expected, _ = answers(prompt, prompt.model, method)
    model: Any = fresh(entry).requires_grad_(True)
    layers = [part for part in model.modules() if isinstance(part, nn.ModuleList)]
    if version == 1:
        from torch.distributed.fsdp import FullyShardedDataParallel as Sharded

        for several in layers:
            for number, layer in enumerate(several):
                several[number] = Sharded(
                    layer, device_id=torch.device("cpu"), use_orig_params=True
                )
        model = Sharded(model, device_id=torch.device("cpu"), use_orig_params=True)
    else:
        from torch.distributed.fsdp import fully_shard

        mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
        for several in layers:
            for layer in several:
                fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
    found, _ = answers(prompt, model, method)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_data_parallel_is_refused(llava: ZooEntry) -> None:
    with pytest.raises(UnsupportedModelError, match="DataParallel: it runs copies"):
        lftr.reduce(nn.DataParallel(fresh(llava)), "uniform", tokens=3)


# ---- DeepSpeed ---------------------------------------------------------------------------------


class DeepSpeedEngine(nn.Module):
    """Stands for DeepSpeed's, which is not installed: a module under the same name."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)


def test_deepspeed(llava: ZooEntry) -> None:
    prompt = Prompt(llava)
    engine = DeepSpeedEngine(fresh(llava))
    found, _ = answers(prompt, engine, "lftr")
    assert torch.equal(found, answers(prompt, prompt.model, "lftr")[0])
    for parameter in engine.parameters():
        parameter.ds_id = 0  # type: ignore[attr-defined]
    with pytest.raises(UnsupportedModelError, match="stage 3"):
        lftr.reduce(engine, "lftr", keep=0.4)


# ---- accelerate --------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["llava", "llava_next", "qwen2_5_vl"])
def test_accelerate_prepares_mixed_precision(name: str, method: str) -> None:
    """Images are encoded in the precision in which the model would encode them itself."""
    accelerate = pytest.importorskip("accelerate")
    from accelerate.state import AcceleratorState

    entry = FAMILIES[name]
    AcceleratorState._reset_state(reset_partial_state=True)  # another test may have set it
    try:
        accelerator = accelerate.Accelerator(mixed_precision="bf16", cpu=True)
        model = accelerator.prepare(fresh(entry))
        prompt = Prompt(entry, model=model)
        plain = prompt.forward().logits
        with lftr.reduce(model, method, keep=1.0):
            assert torch.equal(prompt.forward().logits, plain)
        found, _ = answers(prompt, model, method)
        bare = Prompt(entry)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            expected, _ = answers(bare, bare.model, method)
        assert torch.equal(found, expected.float())
        assert distance(plain, bare.forward().logits) > 1e-4
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)


# ---- others ------------------------------------------------------------------------------------


class Valued(nn.Module):
    """A wrapper that nobody has heard of."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.policy = nn.ModuleDict({"model": model})


def test_an_unknown_wrapper_is_told_what_it_holds(llava: ZooEntry) -> None:
    with pytest.raises(LftrError, match=r"Valued.*LlavaForConditionalGeneration: \.policy\.model"):
        lftr.reduce(Valued(llava.model()), "uniform", tokens=3)


def test_a_pipeline_is_refused() -> None:
    from transformers import pipeline

    model, processor = lftr.bundled.load()
    pipe = pipeline("image-text-to-text", model=model, processor=processor)
    with pytest.raises(UnsupportedModelError, match=r"reduce pipeline\.model"):
        lftr.reduce(pipe, "uniform", tokens=3)


def test_wrappers_in_wrappers(llava: ZooEntry) -> None:
    prompt = Prompt(llava)
    wrapped = torch.compile(DeepSpeedEngine(lora(fresh(llava))), backend="eager")
    with lftr.reduce(wrapped, "uniform", tokens=3) as reduction:
        short = lftr.prepare(wrapped, **prompt.inputs())
        assert lftr.reductions(wrapped) == [reduction]
    assert short["input_ids"].shape[1] < prompt.inputs()["input_ids"].shape[1]
