"""The recipe of the clip model: packing equals inference, targets are true, all of it runs."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from lftr import suites
from lftr.lab.suites.example import SceneObject
from lftr.lab.suites.tracks import FRAMES, Track

# ruff: noqa: I001
from architecture import PATCH, TINY, ClipTowers, Towers, clip_processor, export
from clip_data import (
    CLIP_GRID,
    CLIP_SLOTS,
    TOLD,
    UNKNOWN,
    clip,
    clip_stream,
    clips_held_out,
    histories,
)
from clip_losses import ClipHeads, answer_clip, clip_losses, prompt, see_clip
from data import collate, encode
from losses import pixels, wanted
from train_clips import main
from vocabulary import ASSISTANT, BOS, IMAGE, USER, clip_words, tokenizer

PATCHES = CLIP_GRID**2
NAMES = list(TOLD)


@pytest.fixture(scope="module")
def towers():
    torch.manual_seed(0)
    made = ClipTowers(TINY).eval()
    made.llava.model.language_model.set_attn_implementation("packed")
    return made


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    return collate([clip(rng, "train", 4) for _ in range(2)])


# What it begins from


def test_it_begins_as_the_model_of_the_scenes(tmp_path):
    torch.manual_seed(0)
    scenes = Towers(TINY)
    export(scenes, tmp_path, torch.float32)
    clips = ClipTowers(TINY, tmp_path).llava
    old, new = tokenizer().get_vocab(), tokenizer(known=clip_words()).get_vocab()
    assert old.keys() < new.keys()
    rows = scenes.llava.get_input_embeddings().weight
    for token in ("Ġred", "Ġcircle", "<image>", "Ġ3"):
        assert clips.get_input_embeddings().weight[new[token]].equal(rows[old[token]])
        assert clips.lm_head.weight[new[token]].equal(scenes.llava.lm_head.weight[old[token]])
    places = [m.model.vision_tower.embeddings.position_embedding for m in (scenes.llava, clips)]
    assert places[1].weight[0].equal(places[0].weight[0])
    assert places[1].weight[1 + CLIP_GRID * 3 + 2].equal(places[0].weight[1 + 24 * 3 + 2])
    layer = clips.model.language_model.layers[1].mlp.up_proj.weight
    assert layer.equal(scenes.llava.model.language_model.layers[1].mlp.up_proj.weight)


# Packing


@torch.no_grad()
def test_vision_pass_is_the_model_s_own(towers, batch):
    seen = see_clip(towers, batch["image"])
    flat = pixels(batch["image"].flatten(0, 1))
    plain = towers.llava.model.vision_tower(flat, output_hidden_states=True)
    torch.testing.assert_close(seen.flatten(0, 1), plain.hidden_states[-2][:, 1:])


@torch.no_grad()
@pytest.mark.parametrize("keep", [None, 50])
def test_packed_questions_are_answered_as_if_asked_alone(towers, batch, keep):
    patches = see_clip(towers, batch["image"])
    kept = torch.arange(FRAMES * PATCHES).expand(2, -1)
    if keep:
        kept = torch.rand(2, FRAMES * PATCHES).topk(keep, 1).indices.sort(1).values
    packed, _ = answer_clip(towers, patches, batch, kept if keep else None)
    model = towers.llava.model.language_model
    features = towers.llava.model.multi_modal_projector(patches.flatten(1, 2))
    before = prompt(FRAMES, PATCHES)
    model.set_attn_implementation("sdpa")
    for row, slot in ((0, 0), (0, CLIP_SLOTS - 1), (1, 4)):
        end = int(batch["ask_at"][row, slot]) + 1
        ids = torch.cat((before, batch["slots"][row, slot, :end]))
        alone = model.embed_tokens(ids)
        visual = (ids == IMAGE).nonzero()[:, 0]
        alone[visual] = features[row]
        there = ids != IMAGE
        there[visual[kept[row]]] = True
        places = there.nonzero()[:, 0][None]
        long = places.shape[1]
        mask = torch.ones(long, long, dtype=torch.bool).tril()[None, None]
        state = model(inputs_embeds=alone[places], position_ids=places, attention_mask=mask)
        logits = towers.llava.lm_head(state.last_hidden_state[0, -1])
        torch.testing.assert_close(packed[row, slot, 0], logits, atol=1e-5, rtol=1e-5)
    model.set_attn_implementation("packed")


def test_a_slot_is_the_prompt_that_the_processor_makes():
    example = suites.load("clips", n=1)[0]
    slot, at = encode(example.question, example.answer, clips=True)
    content = [*[{"type": "image"}] * FRAMES, {"type": "text", "text": example.question}]
    chat = [{"role": "user", "content": content}]
    text = clip_processor().apply_chat_template(chat, add_generation_prompt=True)
    ids = clip_processor()(text=text, images=list(example.images))["input_ids"][0]
    assert ids == [*prompt(FRAMES, PATCHES).tolist(), *slot[: at + 1]]
    assert ids[:2] == [BOS, USER]
    assert slot[at] == ASSISTANT


# Targets


def test_a_patch_tells_the_past_of_what_covers_it():
    look = SceneObject("square", "red", 20, 20, 16)
    gone = replace(look, kind="circle", x=60, y=20)
    moved = replace(look, colour="blue", x=44)
    flash = replace(look, y=60)
    told = histories(
        (
            Track((look, look, moved, moved)),
            Track((gone, None, None, None)),
            Track((None, flash, None, flash)),
        ),
        4,
    ).reshape(4, CLIP_GRID, CLIP_GRID, -1)

    def at(frame, x, y):
        return dict(zip(NAMES, told[frame, y // PATCH, x // PATCH].tolist(), strict=True))

    red, right = 0, 2
    assert at(0, 20, 20) == {
        "frame": 0, "new": UNKNOWN, "came": 0, "times": 0, "way": 0, "was": red, "gone": UNKNOWN,
    }  # fmt: skip
    assert at(2, 44, 20)["way"] == right
    assert at(2, 44, 20)["was"] == red
    assert at(2, 44, 20)["new"] == 0
    assert (at(1, 20, 60)["new"], at(1, 20, 60)["times"], at(1, 20, 60)["came"]) == (1, 0, 1)
    assert (at(3, 20, 60)["new"], at(3, 20, 60)["times"], at(3, 20, 60)["came"]) == (1, 1, 1)
    assert at(1, 60, 20)["gone"] == at(3, 60, 20)["gone"] > 0
    assert at(2, 20, 60)["gone"] > 0
    assert at(3, 76, 76)["gone"] == 0
    assert at(3, 76, 76)["way"] == UNKNOWN
    assert (told[..., 0] == np.arange(4)[:, None, None]).all()


def test_targets_are_in_range(batch):
    for values, most in zip(batch["told"].unbind(-1), TOLD.values(), strict=True):
        assert values.min() >= UNKNOWN
        assert values.max() < most


def test_answers_are_where_they_are_looked_for(batch):
    rows = clip_processor().tokenizer.batch_decode(wanted(batch).flatten(0, 1)[:, :1])
    choices = {choice for e in suites.load("clips", n=28) for choice in e.choices}
    assert set(rows) <= choices


def test_lessons_change_how_long_clips_are():
    most = torch.tensor([3, 4])
    batches = clip_stream(0, 2, most)
    assert next(batches)["image"].shape[:2] == (4, 4)
    most.copy_(torch.tensor([5, 8]))
    assert next(batches)["image"].shape[:2] == (2, 8)


def test_what_is_held_out_is_held_out():
    found = [clips_held_out(split, 2)["image"] for split in ("validation", "test")]
    found.append(next(clip_stream(0, 2, torch.tensor([5, 8])))["image"])
    assert len({images.numpy().tobytes() for images in found}) == 3


# Training


def test_only_the_language_side_learns(towers, batch):
    heads = ClipHeads(towers.llava.config.text_config.hidden_size)
    total, found = clip_losses(towers, heads, batch)
    total.backward()
    assert all(loss.isfinite() for loss in found.values())
    assert {"answer", "way", "early"} <= found.keys()
    model = towers.llava.model
    assert all(p.grad is None for p in model.vision_tower.parameters())
    assert all(p.grad is not None for p in model.language_model.parameters())
    assert all(p.grad is not None for p in model.multi_modal_projector.parameters())
    towers.zero_grad(set_to_none=True)


@pytest.mark.slow
def test_smoke_run_resumes_and_can_be_loaded(tmp_path):
    main(["--smoke", "--out", str(tmp_path)])
    run = main(["--smoke", "--out", str(tmp_path), "--steps", "6"])
    lines = [json.loads(line) for line in (tmp_path / "log.txt").read_text().splitlines()]
    assert [line["step"] for line in lines if "step" in line] == [2, 4, 6]
    assert all(np.isfinite(line["answer"]) for line in lines if "step" in line)

    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "weights", dtype="float32")
    AutoProcessor.from_pretrained(tmp_path / "weights")
    trained = run.towers.llava.lm_head.weight
    torch.testing.assert_close(model.lm_head.weight, trained, atol=1e-2, rtol=1e-2)
