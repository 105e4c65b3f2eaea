"""The recipes of docs/modules.md, each on a module with that code's structure."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lftr

from .structures import (
    IMAGE,
    WORDS,
    DeepSeekVL2,
    Encoder,
    InternVL,
    Llava,
    LlavaTower,
    MiniGPT,
)

BEFORE, AFTER = torch.tensor([[3, 4, 5]]), torch.tensor([[6, 7, 8, 9]])
IDS = torch.tensor([[3, IMAGE, 6, 7], [4, 5, IMAGE, 8]])


@pytest.fixture(autouse=True)
def _plain() -> Any:
    torch.manual_seed(0)
    with torch.no_grad():
        yield


def images(count: int, side: int) -> Tensor:
    generator = torch.Generator().manual_seed(count + side)
    return torch.randn(count, 3, 4 * side, 4 * side, generator=generator)


def of_patches(values: Tensor, grid: tuple[int, int], block: tuple[int, int]) -> Tensor:
    """Mean of ``(..., P)`` over the patches of each token, one token after the other."""
    (rows, columns), (high, wide) = grid, block
    picture = values.unflatten(-1, (rows * high, columns * wide))
    means = [
        picture[..., r * high : (r + 1) * high, c * wide : (c + 1) * wide].mean(dim=(-2, -1))
        for r in range(rows)
        for c in range(columns)
    ]
    return torch.stack(means, dim=-1)


def same(left: Tensor, right: Tensor) -> None:
    torch.testing.assert_close(left, right, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("side", "grid"), [(32, (1, 32, 8)), (16, (1, 16, 4))])
def test_a_token_of_minigpt_is_four_patches_of_one_row(
    side: int, grid: tuple[int, int, int]
) -> None:
    """What one patch changes shows where the grid says that it lies."""
    projector = nn.Linear(4, 1)
    values = torch.zeros(side * side, 1)
    row, column = 5, 9
    values[row * side + column] = 1
    tokens = projector(values.reshape(1, side * side // 4, 4))
    changed = int((tokens != tokens[0, 0]).squeeze().nonzero())
    where = lftr.VisualTokens(tokens[0], grid=grid).coordinates[changed].tolist()
    assert where == [0, row, column // 4]


@pytest.mark.parametrize("method", ["fastervlm", "hiprune", "visionzip", "trim", "flowcut"])
@pytest.mark.parametrize(("side", "grid"), [(32, (1, 32, 8)), (16, (1, 16, 4))])
def test_minigpt(method: str, side: int, grid: tuple[int, int, int]) -> None:
    """Attention of EVA, averaged over each token's patches; the question by its embeddings."""
    model = MiniGPT(side).eval()
    picture = images(2, side)
    full = model.encode_img(picture)
    layers = [layer.attn for layer in model.visual_encoder.layers]
    maps, keys = layers[-1].map, layers[-1].keys.mean(dim=1)[:, 1:]
    values = layers[-1].values
    alike = (values[:, :, :1] @ values.mT).softmax(dim=-1).mean(dim=1)[:, 0, 1:]
    before, after = BEFORE.expand(2, -1), AFTER.expand(2, -1)
    question = model.llama_model.embed_tokens(AFTER[0])
    evidence = lftr.ModuleEvidence(encoder=model.visual_encoder, text=question)
    with lftr.reduce_module(model.llama_proj, method, 1 / 8, grid=grid, evidence=evidence) as r:
        got = model(picture, before, after)
    block = (1, 4)
    for row in range(2):
        tokens = lftr.VisualTokens(
            full[row],
            grid=grid,
            cls_attention=of_patches(maps[row, :, 0, 1:], grid[1:], block),
            attention_received=of_patches(maps[row].mean(dim=(0, 1))[1:], grid[1:], block),
            attention_received_shallow=of_patches(
                layers[0].map[row].mean(dim=(0, 1))[1:], grid[1:], block
            ),
            keys=of_patches(keys[row].mT, grid[1:], block).mT,
            values=of_patches(values[row].mean(dim=0)[1:].mT, grid[1:], block).mT,
            cls_value_similarity=of_patches(alike[row], grid[1:], block),
            text_token_embeds=question,
        )
        chosen = lftr.get_method(method).select(tokens, 1 / 8)
        assert r.report.items[row].positions == tuple(chosen.index.tolist())
        want = model.answer(BEFORE, [chosen.apply(full[row])[None]], AFTER)
        same(got[row], want[0])
    assert not model.llama_proj._forward_hooks
    assert not any(layer._forward_hooks for layer in layers)


def test_minigpt4_with_a_q_former() -> None:
    model = MiniGPT(4, queries=32).eval()
    full = model.encode_img(images(1, 4))
    with lftr.reduce_module(model.llama_proj, "divprune", 8) as reduction:
        got = model(images(1, 4), BEFORE, AFTER)
    chosen = lftr.get_method("divprune").select(lftr.VisualTokens(full[0]), 8)
    same(got, model.answer(BEFORE, [chosen.apply(full[0])[None]], AFTER))
    assert (reduction.report.tokens, reduction.report.kept) == (32, 8)
    evidence = lftr.ModuleEvidence(encoder=model.visual_encoder)
    reduction = lftr.reduce_module(model.llama_proj, "fastervlm", 8, evidence=evidence)
    with reduction, pytest.raises(lftr.LftrError, match="queries of a Q-Former"):
        model(images(1, 4), BEFORE, AFTER)


def test_the_chat_of_minigpt_reduces_where_it_encodes() -> None:
    """Its list of images holds embeddings: what follows the block sees the reduced ones."""
    model = MiniGPT(4).eval()
    with lftr.reduce_module(model.llama_proj, "uniform", 2, grid=(1, 4, 1)):
        shown = [model.encode_img(images(1, 4))]
    assert shown[0].shape == (1, 2, WORDS)
    assert model.answer(BEFORE, shown, AFTER).shape[1] == 3 + 2 + 4


@pytest.mark.parametrize("method", ["fastervlm", "visionzip", "two-expert", "vispruner"])
def test_llava_15(method: str) -> None:
    """CLIP's layer before the last, its states as features of the encoder."""
    model = Llava().eval()
    pictures = images(2, 6)
    states = model.vision_tower(pictures)
    attention = model.vision_tower.vision_tower.layers[-2].attn
    maps, keys = attention.map, attention.keys.mean(dim=1)[:, 1:]
    full = model.mm_projector(states)
    questions = [model.language.embed_tokens(row[-2:].clamp(min=0)) for row in IDS]
    evidence = lftr.ModuleEvidence(encoder=model.vision_tower, layer=-2, text=questions)
    where = {"grid": (1, 6, 6), "evidence": evidence}
    with lftr.reduce_module(model.mm_projector, method, 1 / 4, **where) as reduction:
        got = model(IDS, pictures)
    words = model.language.embed_tokens
    for row in range(2):
        tokens = lftr.VisualTokens(
            full[row],
            grid=(1, 6, 6),
            encoder_features=states[row],
            cls_attention=maps[row, :, 0, 1:],
            keys=keys[row],
            text_token_embeds=questions[row],
        )
        chosen = lftr.get_method(method).select(tokens, 1 / 4)
        assert reduction.report.items[row].positions == tuple(chosen.index.tolist())
        at = int((IDS[row] == IMAGE).nonzero())
        parts = [words(IDS[row, :at]), chosen.apply(full[row]), words(IDS[row, at + 1 :])]
        same(got[row], model.language(torch.cat(parts)[None])[0])


def test_every_image_of_a_list_is_reduced() -> None:
    """LLaVA's tower encodes a list one image at a time, and returns a list."""
    tower = LlavaTower(6).eval()
    pictures = images(3, 6)
    full = tower(pictures)
    evidence = lftr.ModuleEvidence(encoder=tower.vision_tower, layer=-2)
    with lftr.reduce_module(tower, "fastervlm", 9, grid=(1, 6, 6), evidence=evidence) as reduction:
        stacked = tower(pictures)
        listed = tower(list(pictures))
    assert [one.shape for one in listed] == [(1, 9, full.shape[-1])] * 3
    same(torch.cat(listed), stacked)
    assert len(reduction.report.items) == 3


def test_llava_16_flat() -> None:
    model = Llava().eval()
    tiles = [images(5, 6), images(3, 6)]
    with lftr.reduce_module(model.mm_projector, "divprune", 4, grid=(1, 6, 6)):
        assert [len(one) for one in model(IDS, tiles)] == [3 + 5 * 4, 3 + 3 * 4]


def test_llava_16_unpadded() -> None:
    """Tokens are reduced for each image, after the padding went, newlines included."""
    model = Llava(merging="spatial_unpad").eval()
    tiles = [images(5, 6), images(5, 6).flip(-1)]
    full = model.visual_tokens(tiles, rows=2)
    with lftr.reduce_module(model.unpadded, "divprune", 1 / 4) as reduction:
        got = model(IDS, tiles, rows=2)
    words = model.language.embed_tokens
    for row in range(2):
        chosen = lftr.get_method("divprune").select(lftr.VisualTokens(full[row]), 1 / 4)
        at = int((IDS[row] == IMAGE).nonzero())
        parts = [words(IDS[row, :at]), chosen.apply(full[row]), words(IDS[row, at + 1 :])]
        same(got[row], model.language(torch.cat(parts)[None])[0])
    assert reduction.report.kept == sum(-(-len(one) // 4) for one in full)


@pytest.mark.parametrize("method", ["fastervlm", "hiprune"])
def test_attention_of_tiles_is_not_taken_for_that_of_a_picture(method: str) -> None:
    """The encoder sees tiles, and a row of the added module is a whole image."""
    model = Llava(merging="spatial_unpad").eval()
    evidence = lftr.ModuleEvidence(encoder=model.vision_tower, layer=-2)
    with (
        pytest.raises(lftr.ArgumentError, match="put together of several tiles"),
        lftr.reduce_module(model.unpadded, method, 1 / 4, evidence=evidence),
    ):
        model(IDS, [images(5, 6), images(5, 6)], rows=2)


def test_an_error_of_the_code_around_says_that_tokens_are_fewer() -> None:
    model = Llava(merging="spatial_unpad").eval()
    with (
        pytest.raises(AssertionError) as caught,
        lftr.reduce_module(model.mm_projector, "uniform", 4),
    ):
        model(IDS, [images(5, 6), images(5, 6)])
    assert "returned 40 of 360 visual tokens" in caught.value.__notes__[0]
    assert not model.mm_projector._forward_hooks
    reduction = lftr.reduce_module(model.mm_projector, "uniform", 4)  # on without a block
    with pytest.raises(AssertionError) as caught, reduction:
        model(IDS, [images(5, 6), images(5, 6)])
    assert "returned 40 of 360 visual tokens" in caught.value.__notes__[0]


@pytest.mark.parametrize("keep", [1, 4, 1 / 4, 1.0])
@pytest.mark.parametrize("tiles", [1, 3])
def test_internvl(keep: Any, tiles: int) -> None:
    model = InternVL().eval()
    pictures = images(tiles, 8)
    full = model.extract_feature(pictures)
    attention = model.vision_model.layers[-1].attn.map
    where = {
        "grid": (1, 4, 4),
        "evidence": lftr.ModuleEvidence(encoder=model.vision_model),
        "placeholders": (model, "num_image_token"),
    }
    with lftr.reduce_module(model.mlp1, "fastervlm", keep, **where) as reduction:
        got = model.chat(pictures, [3, 4], [5, 6, 7])
    parts = [model.language_model.embed_tokens(torch.tensor([3, 4]))]
    for row in range(tiles):
        tokens = lftr.VisualTokens(
            full[row],
            grid=(1, 4, 4),
            cls_attention=of_patches(attention[row, :, 0, 1:], (4, 4), (2, 2)),
        )
        parts.append(lftr.get_method("fastervlm").select(tokens, keep).apply(full[row]))
    parts.append(model.language_model.embed_tokens(torch.tensor([5, 6, 7])))
    same(got, model.language_model(torch.cat(parts)[None])[0])
    assert model.num_image_token == 16
    assert reduction.report.kept == sum(len(part) for part in parts[1:-1])


def test_one_token_is_not_repeated_at_all_placeholders() -> None:
    model = InternVL().eval()
    ids = torch.tensor([3, *[InternVL.context] * 16, 4])
    reduction = lftr.reduce_module(model.mlp1, "uniform", 1)
    with reduction, pytest.raises(lftr.UnsupportedModelError, match=r"one of 16 .*num_image_token"):
        model.generate(images(1, 8), ids)
    with (
        pytest.raises((RuntimeError, IndexError)) as caught,
        lftr.reduce_module(model.mlp1, "uniform", 3),
    ):
        model.generate(images(1, 8), ids)
    assert "returned 3 of 16" in caught.value.__notes__[0]
    gpt = MiniGPT(4).eval()
    with lftr.reduce_module(gpt.llama_proj, "uniform", 1, placeholders=()):
        assert gpt(images(1, 4), BEFORE, AFTER).shape[1] == 3 + 1 + 4


def test_placeholders_follow_the_reduction_that_acts() -> None:
    model = InternVL()
    place = (model, "num_image_token")
    outer = lftr.reduce_module(model.mlp1, "uniform", 8, placeholders=place)
    with lftr.reduce_module(model.mlp1, "uniform", 4, placeholders=place):
        assert model.num_image_token == 4
    assert model.num_image_token == 8
    inner = lftr.reduce_module(model.mlp1, "uniform", 1 / 8, placeholders=place)
    outer.remove()
    assert model.num_image_token == 2
    inner.remove()
    assert model.num_image_token == 16
    assert lftr.reductions(model) == []


@pytest.mark.parametrize("place", ["num_image_token", 16, (None, "x"), (3,), (3, 4)])
def test_placeholders_that_are_none(place: Any) -> None:
    with pytest.raises(lftr.ArgumentError, match="placeholders = "):
        lftr.reduce_module(nn.Identity(), "uniform", 4, placeholders=place)


def test_placeholders_of_another_number_are_refused() -> None:
    model = InternVL()
    model.num_image_token = 64
    reduction = lftr.reduce_module(
        model.mlp1, "uniform", 4, placeholders=(model, "num_image_token")
    )
    with reduction, pytest.raises(lftr.ArgumentError, match=r"of 64.*for each row, 16"):
        model.extract_feature(images(1, 8))
    with pytest.raises(lftr.ArgumentError, match="keep = 'auto'"):
        lftr.reduce_module(
            model.mlp1,
            "trim",
            "auto",
            placeholders=(model, "num_image_token"),
            evidence=lftr.ModuleEvidence(text=torch.zeros(2, WORDS)),
        )


CROPS = [[(2, 1), (1, 2)], [(1, 1)]]  # columns and rows of tiles: images of two rows


def deepseek_inputs(model: DeepSeekVL2, most: int | None) -> dict[str, Tensor]:
    """Two rows, padded on the left as that code's processor does."""
    texts = [[[3, 4], [5], [6, 7]], [[8], [9, 3]]]
    rows = [model.tokenize(*one, most) for one in zip(texts, CROPS, strict=True)]
    longest = max(len(ids) for ids, _ in rows)
    return {
        "ids": torch.tensor([[0] * (longest - len(ids)) + ids for ids, _ in rows]),
        "mask": torch.tensor([[False] * (longest - len(mask)) + mask for _, mask in rows]),
        "tiles": images(12, 5).reshape(2, 6, 3, 20, 20),
        "crops": torch.tensor([CROPS[0], [*CROPS[1], (0, 0)]]),
    }


@pytest.mark.parametrize("method", ["divprune", "trim", "uniform"])
@pytest.mark.parametrize("tokens", [1, 7, 1000])
def test_deepseek_vl2(method: str, tokens: int) -> None:
    """Tokens are reduced for each image, newlines and separators included."""
    model = DeepSeekVL2().eval()
    seen: list[Tensor] = []
    handle = model.arranged.register_forward_hook(lambda _, args, out: seen.extend(args[0]))
    full = model.prepare_inputs_embeds(**deepseek_inputs(model, None))
    handle.remove()
    assert [len(one) for one in seen] == [12 + 1 + 3 * 7, 12 + 1 + 6 * 4, 12 + 1 + 3 * 4]
    newline = (full[0] == model.image_newline).all(dim=-1).nonzero().flatten().tolist()
    assert newline == [2 + at for at in [3, 7, 11, 19, 26, 33]] + [
        36 + 1 + at for at in [3, 7, 11, 16, 20, 24, 28, 32, 36]
    ]
    question = model.language.embed_tokens(torch.tensor([6, 7]))
    evidence = lftr.ModuleEvidence(text=question)
    given = deepseek_inputs(model, tokens)
    with lftr.reduce_module(
        model.arranged, method, tokens=tokens, evidence=evidence, placeholders=()
    ) as reduction:
        got = model.prepare_inputs_embeds(**given)
    wanted = model.language.embed_tokens(given["ids"])
    kept = []
    for one in seen:
        one_item = lftr.VisualTokens(one, text_token_embeds=question)
        kept.append(lftr.get_method(method).select(one_item, min(tokens, len(one))).apply(one))
    wanted[given["mask"]] = torch.cat(kept)
    assert torch.equal(got, wanted)
    assert reduction.report.kept == len(kept[-1])  # the module is called for each row


def test_placeholders_of_deepseek_vl2_are_counted() -> None:
    """Its code would put what is left over of one image at the placeholders of the next."""
    model = DeepSeekVL2().eval()
    for tokens, most in ((7, 6), (7, None), (1000, 6)):
        reduction = lftr.reduce_module(model.arranged, "uniform", tokens=tokens)
        with reduction, pytest.raises(AssertionError):
            model.prepare_inputs_embeds(**deepseek_inputs(model, most))


def test_downsample_says_that_it_picks_tokens() -> None:
    with lftr.reduce_module(nn.Identity(), "downsample", 4, grid=(1, 4, 4)) as reduction:
        nn.Identity()(torch.zeros(1, 16, 2))
        reduction._module(torch.zeros(1, 16, 2))
    assert any("smaller image" in note for note in reduction.report.notes)


def test_missing_evidence_is_named() -> None:
    model = MiniGPT(4)
    for method, needs in (("fastervlm", "cls_attention"), ("trim", "text_embeds")):
        with pytest.raises(lftr.MissingEvidenceError, match=needs):
            lftr.reduce_module(model.llama_proj, method, 2, grid=(1, 4, 1))
    everything = lftr.ModuleEvidence(encoder=model.visual_encoder, text=torch.zeros(2, WORDS))
    with pytest.raises(lftr.MissingEvidenceError, match="text_products"):
        lftr.reduce_module(model.llama_proj, "hawk", 2, evidence=everything)


def test_attention_of_another_kind_is_refused() -> None:
    """A bias that the reader does not know of changes the module's output."""
    model = MiniGPT(8).eval()
    attention = model.visual_encoder.layers[-1].attn
    plain = attention.forward
    attention.forward = lambda x: plain(x + torch.arange(65.0)[:, None] / 10)
    evidence = lftr.ModuleEvidence(encoder=model.visual_encoder)
    where = {"grid": (1, 8, 2), "evidence": evidence}
    with (
        pytest.raises(lftr.UnsupportedModelError, match="cannot be read"),
        lftr.reduce_module(model.llama_proj, "fastervlm", 4, **where),
    ):
        model.encode_img(images(1, 8))


def test_readings_are_let_go() -> None:
    """Also where every token stays, and in a copy of the module."""
    model = MiniGPT(8).eval()
    evidence = lftr.ModuleEvidence(encoder=model.visual_encoder)
    where = {"grid": (1, 8, 2), "evidence": evidence}
    reduction = lftr.reduce_module(model.llama_proj, "fastervlm", 16, **where)
    full = model.encode_img(images(1, 8))
    assert not reduction._reader.forget()
    reduction.remove()
    lftr.reduce_module(model.llama_proj, "fastervlm", 4, **where)
    twin = copy.deepcopy(model)
    assert torch.equal(twin.encode_img(images(1, 8)), model.encode_img(images(1, 8)))
    assert lftr.reductions(twin)[0] is not lftr.reductions(model)[0]
    lftr.restore(model)
    assert torch.equal(model.encode_img(images(1, 8)), full)


def test_attention_is_read_under_autocast() -> None:
    model = MiniGPT(8).eval()
    evidence = lftr.ModuleEvidence(encoder=model.visual_encoder)
    where = {"grid": (1, 8, 2), "evidence": evidence}
    with (
        lftr.reduce_module(model.llama_proj, "fastervlm", 4, **where) as reduction,
        torch.autocast("cpu", torch.bfloat16),
    ):
        assert model.encode_img(images(1, 8)).shape[1] == 4
        read = model.visual_encoder.layers[-1].attn.map[0, :, 0, 1:].float()
    best = of_patches(read.mean(dim=0), (8, 2), (1, 4)).topk(4).indices.sort().values
    assert reduction.report.items[0].positions == tuple(best.tolist())


def test_evidence_that_is_none() -> None:
    module, encoder = nn.Identity(), Encoder(4, "eva")
    for wrong in ("encoder", {"text": 3}):
        with pytest.raises(lftr.ArgumentError, match="evidence = "):
            lftr.reduce_module(module, "uniform", 4, evidence=wrong)  # type: ignore[arg-type]
    with pytest.raises(lftr.ArgumentError, match="encoder = "):
        lftr.ModuleEvidence(encoder="eva")  # type: ignore[arg-type]
    with pytest.raises(lftr.ArgumentError, match="text = "):
        lftr.ModuleEvidence(text=torch.zeros(3))
    for evidence, message in (
        (lftr.ModuleEvidence(encoder=encoder, layer=3), "layer = 3; allowed: -3 to 2"),
        (lftr.ModuleEvidence(encoder=nn.Linear(2, 2)), "no attention module"),
    ):
        with pytest.raises(lftr.LftrError, match=message):
            lftr.reduce_module(module, "fastervlm", 4, evidence=evidence)
    with (
        pytest.raises(lftr.UnsupportedModelError, match="ran for 0 images"),
        lftr.reduce_module(module, "fastervlm", 4, evidence=lftr.ModuleEvidence(encoder=encoder)),
    ):
        module(torch.zeros(1, 16, 2))
    two = lftr.ModuleEvidence(text=[torch.zeros(2, 2)] * 2)
    with (
        pytest.raises(lftr.ArgumentError, match="one for each of 3 rows"),
        lftr.reduce_module(module, "trim", 4, evidence=two),
    ):
        module(torch.zeros(3, 16, 2))


def test_it_needs_no_transformers() -> None:
    """Every other test of this file passes where torch is all that can be imported."""
    if sys.modules.get("transformers", "absent") is None:
        return
    missing = dict.fromkeys(["transformers", "safetensors", "PIL"])
    blocked = f"import sys; sys.modules.update({missing!r}); import pytest; "
    here = Path(__file__)
    run = (
        f"sys.exit(pytest.main(['-q', '-p', 'no:cacheprovider', '-p', 'no:xdist', {str(here)!r}]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", blocked + run],
        cwd=here.parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
