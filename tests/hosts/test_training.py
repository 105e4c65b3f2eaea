"""Training through a reduction: checkpointed layers, backward passes, Trainer."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lftr
from lftr.values.errors import LftrError, UnsupportedModelError

from .inside.support import Own, Planned, Skip, Step
from .support import FAMILIES, SQUARE, WIDE, Prompt, ZooEntry, fresh
from .test_labels import labelled

WAYS: dict[str, dict[str, Any]] = {
    "reentrant": {"use_reentrant": True},
    "not reentrant": {"use_reentrant": False},
}


@pytest.fixture(autouse=True)
def no_grad() -> Any:
    """Unlike in the other files of this folder, gradients are wanted."""
    with torch.enable_grad():
        yield


def gradients(prompt: Prompt, reduction: Any) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients of a step; the backward pass runs when the reduction is off again."""
    model = prompt.model
    model.zero_grad()
    with reduction:
        loss = model(**labelled(prompt, "right")).loss
        report = reduction.report
    assert report.average < report.tokens or {one.state for one in report.layers} > {"active"}
    loss.backward()
    named = model.named_parameters()
    return loss.item(), {name: p.grad.clone() for name, p in named if p.grad is not None}


def check(prompt: Prompt, reduction: Any, way: str) -> None:
    model = prompt.model.requires_grad_(True).train()
    loss, plain = gradients(prompt, reduction)
    model.gradient_checkpointing_enable(WAYS[way])
    checkpointed = [name for name, part in model.named_modules() if flag(part)]
    found, grads = gradients(prompt, reduction)
    assert found == pytest.approx(loss, abs=1e-6)
    assert grads.keys() == plain.keys()
    for name, grad in grads.items():
        torch.testing.assert_close(grad, plain[name], rtol=1e-4, atol=1e-6, msg=name)
    assert checkpointed == [name for name, part in model.named_modules() if flag(part)] != []


def flag(part: nn.Module) -> bool:
    return bool(getattr(part, "gradient_checkpointing", False))


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", lftr.list_methods())
def test_checkpointing_under_every_method(llava: ZooEntry, name: str, way: str) -> None:
    prompt = Prompt(llava, [WIDE, SQUARE], model=fresh(llava))
    try:
        reduction = lftr.reduce(prompt.model, name, keep=0.8)
    except LftrError:
        pytest.skip("needs more than a LLaVA alone can tell")
    check(prompt, reduction, way)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("method", ["visionzip", "hiprune"])
@pytest.mark.parametrize("name", ["llava_next", "qwen2_5_vl", "gemma3", "internvl"])
def test_checkpointing_where_the_encoder_is_read(name: str, method: str, way: str) -> None:
    entry = FAMILIES[name]
    prompt = Prompt(entry, [WIDE, SQUARE], model=fresh(entry))
    try:
        reduction = lftr.reduce(prompt.model, method, keep=0.4)
    except LftrError:
        pytest.skip("needs more than this encoder can tell")
    check(prompt, reduction, way)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "merge", [lftr.EncoderToMe(r=4), lftr.EncoderToMe(r=4, proportional=True), lftr.EncoderFolder()]
)
def test_checkpointing_where_the_encoder_merges(llava: ZooEntry, merge: Any, way: str) -> None:
    prompt = Prompt(llava, [WIDE, SQUARE], model=fresh(llava))
    check(prompt, lftr.reduce(prompt.model, "lftr", keep=0.4, encoder=merge), way)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl"])
@pytest.mark.parametrize(
    "method",
    [
        Planned(Skip("frozen", layers=(2,))),
        Planned(Skip("bypassed", layers=(2,))),
        Own(Step(2, 0.5)),
    ],
    ids=["frozen", "bypassed", "own"],
)
def test_checkpointing_inside(name: str, method: Any, way: str) -> None:
    entry = FAMILIES[name]
    prompt = Prompt(entry, [WIDE, SQUARE], model=fresh(entry))
    check(prompt, lftr.reduce(prompt.model, method), way)


def test_layers_that_others_checkpoint(llava: ZooEntry) -> None:
    """torch's own wrapper cannot be held off, so what hooks inside a layer refuses it."""
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    prompt = Prompt(llava, [WIDE], model=fresh(llava).requires_grad_(True).train())
    tower = prompt.model.base_model.vision_tower.modules()
    layers = next(part for part in tower if isinstance(part, nn.ModuleList))
    for number, layer in enumerate(layers):
        layers[number] = checkpoint_wrapper(layer)
    options = {"keep": 0.4, "encoder": lftr.EncoderToMe(r=4)}
    with (
        lftr.reduce(prompt.model, "lftr", **options),
        pytest.raises(UnsupportedModelError, match="runs its layer again"),
    ):
        prompt.forward()
    _, grads = gradients(prompt, lftr.reduce(prompt.model, "visionzip", keep=0.4))
    assert any("vision_tower" in name for name in grads)


@pytest.fixture(scope="module")
def example() -> Any:
    """The example that fine-tunes the bundled model."""
    pytest.importorskip("peft")
    path = Path(__file__).parents[2] / "examples" / "finetune_lora.py"
    spec = importlib.util.spec_from_file_location("finetune_lora", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_trainer_learns_from_a_sixteenth(example: Any) -> None:
    losses = example.train(keep=1 / 16, steps=8)
    assert sum(losses[-4:]) < 2 * losses[0]


@pytest.mark.slow
def test_trainer_with_everything_kept_is_plain_training(example: Any) -> None:
    assert example.train(keep=1.0, steps=2) == example.train(keep=None, steps=2)
