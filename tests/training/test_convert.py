"""The conversion to Qwen2.5-VL: its passes are the model's own, and each part does what it says."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lftr import bundled, suites
from lftr.prompting import batch_inputs

# ruff: noqa: I001
import convert_language
import convert_tower
from convert import draw, main
from data import encode
from least_squares import fit, refit
from losses import packed_mask, pixels
from qwen import BEFORE, PREFIX, SIDE, TOKENS, WIDTH
from qwen import attend, build, export, load, merge, order, places, processor, read, see
from vocabulary import ASSISTANT


@pytest.fixture(scope="module")
def scenes():
    return draw(7, 8)


@pytest.fixture(scope="module")
def old():
    model, _ = bundled.load()
    model.requires_grad_(False).model.language_model.set_attn_implementation("packed")
    return model


@pytest.fixture(scope="module")
def model(old, scenes):
    """Converted in closed form, nothing fitted yet."""
    torch.manual_seed(0)
    made = build()
    convert_tower.begin(made.model.visual, old.model.vision_tower, pixels(scenes["image"]))
    seen = see(made.model.visual, pixels(scenes["image"]))
    convert_language.begin(made, old)
    convert_language.begin_merger(made.model.visual, old.model.multi_modal_projector, seen)
    return made


# Passes


@torch.no_grad()
def test_packed_pass_is_the_model_s_own(model, tmp_path):
    export(model, tmp_path)
    loaded, prepare = load(tmp_path)
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 25e6
    examples = suites.load("scenes", "validation", 2)
    inputs = batch_inputs(prepare, [(one.images, one.question) for one in examples])
    assert (inputs["input_ids"][:, -1] == ASSISTANT).all()
    plain = loaded(**inputs).logits[:, -1]
    slots, at = zip(*(encode(e.question, e.answer) for e in examples), strict=True)
    batch = {
        "slots": torch.from_numpy(np.stack(slots))[:, None],
        "ask_at": torch.tensor(at)[:, None],
    }
    images = torch.from_numpy(np.stack([np.asarray(e.images[0]) for e in examples]))
    tokens = merge(loaded.model.visual, see(loaded.model.visual, pixels(images)))
    loaded.model.language_model.set_attn_implementation("packed")
    packed = read(loaded, tokens, batch)[:, 0, 0]
    torch.testing.assert_close(packed, plain, atol=1e-3, rtol=1e-3)


@torch.no_grad()
def test_places_are_the_model_s_own(model):
    prepare = processor()
    picture = suites.load("scenes", "validation", 1)[0].images[0]
    text = "<user><vision_start><image><vision_end>" + " red" * 4
    inputs = prepare(images=[picture], text=[text], return_tensors="pt")
    found, _ = model.model.get_rope_index(
        inputs["input_ids"],
        image_grid_thw=inputs["image_grid_thw"],
        mm_token_type_ids=inputs["mm_token_type_ids"],
    )
    assert torch.equal(found[:, 0], places(4))
    assert found.shape[2] == PREFIX + 4


# The tower


@torch.no_grad()
def test_an_mlp_is_nearly_the_bundled_tower_s(old, scenes, model):
    """LayerNorm is RMSNorm in a centred stream, GELU a gated unit; a fifth of the units is gone."""
    layer, block = old.model.vision_tower.encoder.layers[3], model.model.visual.blocks[3]
    hidden = convert_tower.features(old.model.vision_tower, pixels(scenes["image"][:2]))
    hidden = hidden - hidden.mean(-1, keepdim=True)
    theirs = layer.mlp(layer.layer_norm2(hidden))
    theirs = theirs - theirs.mean(-1, keepdim=True)
    mine = block.mlp(block.norm2(hidden))
    assert (mine - theirs).pow(2).mean() < 0.1 * theirs.var()


def test_attention_follows_offsets():
    """The biases' rotated product is the table of offsets, where it is a sum of slow waves."""
    line = torch.arange(SIDE).float()
    row, column = (x.flatten() for x in torch.meshgrid(line, line, indexing="ij"))

    def waves(ahead: float) -> torch.Tensor:
        turns = [0.3 * axis + ahead for axis in (row, column)]
        both = torch.stack([wave(turn) for turn in turns for wave in (torch.cos, torch.sin)], -1)
        return F.pad(3 * both, (0, 60))[None].expand(8, -1, -1)

    queries, keys = waves(0.0), waves(1.0)  # they look to one side
    table = convert_tower.by_offset(queries[0] @ keys[0].T)
    vision = build().model.visual
    query, key = convert_tower._offsets(queries, keys)
    block = vision.blocks[1]
    block.attn.qkv.weight.zero_()
    block.attn.qkv.bias.zero_()
    block.attn.qkv.bias[:64], block.attn.qkv.bias[256:320] = query, key
    block.attn.qkv.weight[512 : 512 + 64, :64] = torch.eye(64)
    hidden = torch.randn(1, SIDE**2, WIDTH)
    seen = attend(vision, 1, hidden)[0, :, :64]
    at = order()
    offsets = (row[at][None] - row[at][:, None], column[at][None] - column[at][:, None])
    logits = table[offsets[0].long() + SIDE - 1, offsets[1].long() + SIDE - 1] / 8
    value = block.norm1(hidden)[0, :, :64]
    wanted = logits.softmax(-1) @ value
    assert (seen - wanted).pow(2).mean() < 0.05 * wanted.var()


@torch.no_grad()
def test_calibration_brings_the_stream_nearer(old, scenes, model):
    vision, tower = copy.deepcopy(model.model.visual), old.model.vision_tower
    pictures = pixels(scenes["image"])
    wanted, place = convert_tower.streams(tower, pictures)
    torch.testing.assert_close(
        wanted[-1].mean(0), wanted[-1].mean((0, 1)).expand(SIDE**2, -1), atol=1e-3, rtol=1e-3
    )
    before = (see(vision, pictures) - wanted[-1]).pow(2).mean()
    told = []
    found = convert_tower.calibrate(
        vision, tower, pictures, scenes["owner"], lambda **record: told.append(record)
    )
    assert torch.equal(found, place)
    assert [record["block"] for record in told] == [0, 1, 2, 3, 4]
    assert (see(vision, pictures) - wanted[-1]).pow(2).mean() < 0.5 * before


# The language model


@torch.no_grad()
def test_language_model_is_the_bundled_one_without_an_image(old, model):
    """Text alone: biases are zero and every axis of M-RoPE counts alike."""
    ids = torch.randint(6, 500, (1, 12))
    language = model.model.language_model
    first, language.layers = language.layers, language.layers[1:]
    language.set_attn_implementation("sdpa")
    known = old.model.language_model
    known.set_attn_implementation("sdpa")
    try:
        mine = language(input_ids=ids, use_cache=False).last_hidden_state
        theirs = known(input_ids=ids, use_cache=False).last_hidden_state
    finally:
        language.layers = first
        language.set_attn_implementation("packed")
        known.set_attn_implementation("packed")
    torch.testing.assert_close(mine, theirs, atol=1e-3, rtol=1e-3)


@torch.no_grad()
def test_front_layer_puts_places_back_and_leaves_words(old, scenes, model):
    vision = model.model.visual
    seen = see(vision, pixels(scenes["image"]))
    _, place = convert_tower.streams(old.model.vision_tower, pixels(scenes["image"]))
    tokens = merge(vision, seen)
    added = (merge(vision, seen + place) - tokens).mean(0)
    convert_language.front(model, tokens, added, scenes["slots"].unique())
    hidden = convert_language.prompt(model, tokens, scenes["slots"])
    words = hidden.shape[1] - PREFIX
    language = model.model.language_model
    mask = packed_mask(PREFIX, torch.arange(words))[None, None]
    turned = language.rotary_emb(hidden, places(words)[:, None])
    change = language.layers[0](hidden, attention_mask=mask, position_embeddings=turned) - hidden
    image = change[:, BEFORE : BEFORE + TOKENS]
    centred = added - added.mean(0)
    assert (image - centred).pow(2).mean() < 0.3 * centred.pow(2).mean()
    rest = torch.cat((change[:, :BEFORE], change[:, BEFORE + TOKENS :]), 1)
    assert rest.abs().max() < 0.05 * hidden[:, PREFIX:].abs().max()


@torch.no_grad()
def test_a_visual_key_counts_as_four(old, scenes, model):
    hidden = convert_language.prompt(
        model, merge(model.model.visual, see(model.model.visual, pixels(scenes["image"][:4]))),
        scenes["slots"][:4, :2],
    )  # fmt: skip
    layer = model.model.language_model.layers[2]
    states = layer.input_layernorm(hidden)
    attention = layer.self_attn
    convert_language.count_as_four(attention, states, torch.ones(hidden.shape[:2], dtype=bool))
    bias = attention.q_proj.bias.view(4, 64)
    keys = attention.k_proj(states).unflatten(-1, (4, 64))
    more = torch.einsum("hd,blhd->bhl", bias, keys) / 8
    visual = more[..., BEFORE : BEFORE + TOKENS].mean(-1)
    words = torch.cat((more[..., :BEFORE], more[..., PREFIX:]), -1).mean(-1)
    attention.q_proj.bias.zero_()
    torch.testing.assert_close(visual - words, torch.full_like(visual, 4.0).log(), atol=0.3, rtol=0)


# All of it


@pytest.mark.slow
def test_the_command_converts_and_tells(tmp_path):
    few = ["--tower-scenes", "8", "--language-scenes", "8", "--check", "4"]
    main(["--out", str(tmp_path), *few])
    log = [json.loads(line) for line in (tmp_path / "log.txt").read_text().splitlines()]
    assert [line["layer"] for line in log if "layer" in line] == list(range(7))
    copied, fitted = (next(x[key] for x in log if key in x) for key in ("copied", "fitted"))
    assert fitted["all"] > max(0.5, copied["all"])  # from eight scenes
    assert load(tmp_path)[0].config.model_type == "qwen2_5_vl"


# Least squares


def test_fit_and_refit_find_a_map():
    torch.manual_seed(0)
    inputs, true = torch.randn(400, 8), torch.randn(8, 3)
    targets = inputs @ true
    weight, held = torch.ones(400), torch.arange(400) >= 350
    torch.testing.assert_close(fit(inputs, targets, weight, 1e-9), true, atol=1e-3, rtol=1e-3)
    noise = torch.randn(400, 3)
    found = refit(inputs, targets, weight, torch.zeros(8, 3), held)
    torch.testing.assert_close(found, true, atol=1e-2, rtol=1e-2)
    kept = refit(inputs, inputs @ true + 30 * noise, weight, true, held)
    assert (kept - true).norm() < (fit(inputs, targets + 30 * noise, weight, 1e-9) - true).norm()
