"""reduce_module on research code: a module of MiniGPT-v2's structure."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import zoo
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

import lftr
from lftr import LftrError

GRID = (1, 32, 8)


class MiniGPTv2(nn.Module):
    """MiniGPT-v2's data flow: 32 x 32 patches, four neighbours joined, one linear layer, LLaMA-2.

    Its prompt is put together from embeddings, and positions count what is there.
    """

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 24, 4, stride=4)
        self.llama_proj = nn.Linear(4 * 24, 32)
        self.llama_model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=60,
                hidden_size=32,
                intermediate_size=48,
                num_hidden_layers=2,
                num_attention_heads=4,
            )
        )

    def encode_img(self, image: Tensor) -> Tensor:
        embeds = self.patches(image).flatten(2).mT
        batch, count, width = embeds.shape
        return self.llama_proj(embeds.reshape(batch, count // 4, width * 4))

    def forward(self, image: Tensor, before: Tensor, after: Tensor) -> Tensor:
        words = self.llama_model.get_input_embeddings()
        parts = [words(before), self.encode_img(image), words(after)]
        return self.llama_model(inputs_embeds=torch.cat(parts, dim=1)).logits


@pytest.fixture(scope="module")
def model() -> MiniGPTv2:
    torch.manual_seed(0)
    return MiniGPTv2().eval().requires_grad_(False)


def inputs(batch: int = 3) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)
    return {
        "image": torch.randn(batch, 3, 128, 128, generator=generator),
        "before": torch.randint(0, 60, (batch, 3), generator=generator),
        "after": torch.randint(0, 60, (batch, 5), generator=generator),
    }


@pytest.mark.parametrize("method", ["lftr", "pool", "divprune", "random"])
def test_the_language_model_sees_the_reduced_tokens(model: MiniGPTv2, method: str) -> None:
    call = inputs()
    full = model.encode_img(call["image"])
    with lftr.reduce_module(model.llama_proj, method, 1 / 16, grid=GRID) as reduction:
        got = model(**call)
    words = model.llama_model.get_input_embeddings()
    for row in range(3):
        tokens = lftr.VisualTokens(full[row], grid=GRID, encoder_features=full[row])
        chosen = lftr.get_method(method).select(tokens, 16)
        parts = [words(call["before"][row]), chosen.apply(full[row]), words(call["after"][row])]
        want = model.llama_model(inputs_embeds=torch.cat(parts)[None]).logits[0]
        torch.testing.assert_close(got[row], want, rtol=0, atol=1e-5)
        assert reduction.report.items[row].positions == tuple(chosen.index.tolist())
    assert got.shape[1] == 3 + 16 + 5
    assert (reduction.report.tokens, reduction.report.kept) == (3 * 256, 3 * 16)
    merges = method in ("lftr", "pool")
    assert any("slots have no weights" in note for note in reduction.report.notes) == merges


def test_it_is_restored_also_after_an_error(model: MiniGPTv2) -> None:
    call = inputs(1)
    plain = model(**call)
    with pytest.raises(ZeroDivisionError), lftr.reduce_module(model.llama_proj, "pool", tokens=4):
        raise ZeroDivisionError
    assert torch.equal(model(**call), plain)
    assert not model.llama_proj._forward_hooks
    with lftr.reduce_module(model.llama_proj, "uniform", 1.0):
        assert torch.equal(model(**call), plain)


def test_outputs_of_other_kinds() -> None:
    class Tower(nn.Module):
        def forward(self, kind: str) -> Any:
            from transformers.modeling_outputs import BaseModelOutput

            x = torch.arange(24.0).reshape(1, 12, 2)
            return {"tuple": (x, "rest"), "output": BaseModelOutput(last_hidden_state=x)}[kind]

    tower = Tower()
    with lftr.reduce_module(tower, "uniform", tokens=3):
        first, rest = tower("tuple")
        assert first.shape == (1, 3, 2)
        assert rest == "rest"
        assert tower("output").last_hidden_state.shape == (1, 3, 2)


class Pair(NamedTuple):
    """What some projectors return."""

    tokens: Tensor
    rest: str


def test_a_named_tuple_stays_one() -> None:
    class Tower(nn.Module):
        def forward(self) -> Pair:
            return Pair(torch.arange(24.0).reshape(1, 12, 2), "rest")

    tower = Tower()
    with lftr.reduce_module(tower, "uniform", tokens=3):
        pair = tower()
    assert type(pair) is Pair
    assert pair.tokens.shape == (1, 3, 2)
    assert pair.rest == "rest"


def test_the_inner_replaces_the_outer_until_it_ends() -> None:
    module, x = nn.Identity(), torch.randn(1, 12, 2)
    outer = lftr.reduce_module(module, "uniform", tokens=6)
    with lftr.reduce_module(module, "uniform", tokens=4) as inner:
        assert module(x).shape[1] == 4
        assert (inner.report.tokens, outer.report.tokens) == (12, 0)
    assert module(x).shape[1] == 6
    again = lftr.reduce_module(module, "uniform", tokens=4)
    with pytest.warns(UserWarning, match="never removed"):
        module(x)
    outer.remove()  # out of order
    assert module(x).shape[1] == 4
    again.remove()
    assert torch.equal(module(x), x)


@pytest.mark.parametrize(
    "grid",
    [
        (1, 4, 4),
        [1, 4, 4],
        np.array([1, 4, 4]),
        (np.int64(1), np.int32(4), 4),
        torch.tensor([[1, 4, 4]]),
        [(1, 2, 4), (1, 4, 2)],
    ],
    ids=repr,
)
def test_grids(grid: Any) -> None:
    module = nn.Identity()
    with lftr.reduce_module(module, "lftr", tokens=4, grid=grid) as reduction:
        module(torch.randn(1, 16, 2))
    item = reduction.report.items[0]
    assert sum(t * h * w for t, h, w in item.grids) == 16
    assert len(item.grids) == (2 if isinstance(grid, list) and len(grid) == 2 else 1)


@pytest.mark.parametrize(
    "grid",
    [(4, 4), 16, "1x4x4", (1, 4, 4.0), (1, 4, -4), (), (1, (4, 4)), [(1, 4, 4), (4, 4)], Ellipsis],
    ids=str,
)
def test_grids_that_are_none(grid: Any) -> None:
    with pytest.raises(LftrError, match=r"grid = .*allowed: \(T, H, W\)"):
        lftr.reduce_module(nn.Identity(), "lftr", tokens=4, grid=grid)


def test_bad_input(model: MiniGPTv2) -> None:
    with pytest.raises(LftrError, match=r"module = .*torch\.nn\.Module"):
        lftr.reduce_module("llama_proj", "lftr", tokens=4)  # type: ignore[arg-type]
    with pytest.raises(LftrError, match="keep = 0"):
        lftr.reduce_module(model.llama_proj, "lftr", 0)
    with pytest.raises(LftrError, match="cls_attention"):
        lftr.reduce_module(model.llama_proj, "fastervlm", tokens=4)
    with (
        pytest.raises(LftrError, match=r"grid = .*256 tokens"),
        lftr.reduce_module(model.llama_proj, "lftr", tokens=4, grid=(1, 5, 5)),
    ):
        model(**inputs(1))
    with (
        pytest.raises(LftrError, match=r"visual tokens \(B, N, C\)"),
        lftr.reduce_module(model.patches, "lftr", tokens=4),
    ):
        model(**inputs(1))
    assert not model.llama_proj._forward_hooks
    assert not model.patches._forward_hooks


def test_auto_keeps_the_methods_own_number(model: MiniGPTv2) -> None:
    entry = zoo.FAMILIES["llava"]
    llava = entry.model()
    call = entry.inputs(llava, entry.rows([[3, zoo.Image("wide"), 4, zoo.Image("small", 1), 5]]))
    with lftr.reduce(llava, "prumerge", keep="auto") as reduction:
        llava(**call)
    kept = [item.kept for item in reduction.report.items]
    assert all(1 <= k < item.tokens for k, item in zip(kept, reduction.report.items, strict=True))
    with (
        pytest.raises(LftrError, match=r"keep = 'auto'.*trim"),
        lftr.reduce(llava, "uniform", keep="auto"),
    ):
        llava(**call)
    with pytest.raises(LftrError, match="before the image"):
        lftr.reduce(zoo.FAMILIES["blip_2"].model(), "trim", keep="auto")
