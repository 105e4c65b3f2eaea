"""The recipe of the bundled model: packing equals inference, and all of it runs, tiny."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from lftr import suites
from lftr.lab.suites import digits
from lftr.lab.suites.layout import sample_objects

# ruff: noqa: I001
from architecture import TINY, Towers, processor
from data import BACKGROUND, PATCH, SLOTS, collate, encode, held_out, mentions, owners, scene
from losses import answer, embed, pixels, see, wanted
from muon import orthogonal
from train import main
from vocabulary import ASSISTANT, BOS, IMAGE, USER


@pytest.fixture(scope="module")
def towers():
    torch.manual_seed(0)
    made = Towers(TINY).eval()
    made.llava.model.language_model.set_attn_implementation("packed")
    return made


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    return collate([scene(rng, "train") for _ in range(2)])


# Packing


@torch.no_grad()
def test_vision_pass_is_the_model_s_own(towers, batch):
    images = pixels(batch["image"])
    patches, cls = see(towers, images)
    plain = towers.llava.model.vision_tower(images, output_hidden_states=True)
    torch.testing.assert_close(patches, plain.hidden_states[-2][:, 1:])
    torch.testing.assert_close(cls, plain.pooler_output)
    prepared = processor().image_processor(list(batch["image"].numpy()), return_tensors="pt")
    torch.testing.assert_close(images, prepared["pixel_values"])


@torch.no_grad()
def test_text_pass_is_the_model_s_own(towers, batch):
    ids = batch["texts"].flatten(0, 1)
    plain = towers.text_tower(input_ids=ids, attention_mask=(ids != 0).long()).text_embeds
    torch.testing.assert_close(embed(towers, ids), plain)


@torch.no_grad()
@pytest.mark.parametrize("keep", [None, 36])
def test_packed_questions_are_answered_as_if_asked_alone(towers, batch, keep):
    patches, _ = see(towers, pixels(batch["image"]))
    kept = torch.arange(576).expand(2, -1)
    if keep:
        kept = torch.rand(2, 576).topk(keep, 1).indices.sort(1).values
    packed = answer(towers, patches, batch, kept if keep else None)
    model = towers.llava.model.language_model
    features = towers.llava.model.multi_modal_projector(patches)
    model.set_attn_implementation("sdpa")
    for row, slot in ((0, 0), (0, SLOTS - 1), (1, 7)):
        end = int(batch["ask_at"][row, slot]) + 1
        ids = torch.cat((torch.tensor([BOS, USER]), batch["slots"][row, slot, :end]))
        words = model.embed_tokens(ids)
        alone = torch.cat((words[:2], features[row, kept[row]], words[2:]))[None]
        places = torch.cat((torch.arange(2), 2 + kept[row], 578 + torch.arange(end)))[None]
        mask = torch.ones(alone.shape[1], alone.shape[1], dtype=torch.bool).tril()[None, None]
        state = model(inputs_embeds=alone, position_ids=places, attention_mask=mask)
        logits = towers.llava.lm_head(state.last_hidden_state[0, -1])
        torch.testing.assert_close(packed[row, slot, 0], logits, atol=1e-5, rtol=1e-5)
    model.set_attn_implementation("packed")


def test_a_slot_is_the_prompt_that_the_processor_makes():
    question = "What colour is the circle?"
    slot, at = encode(question, "red")
    chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]
    text = processor().apply_chat_template(chat, add_generation_prompt=True)
    image = suites.load(n=1)[0].image
    ids = processor()(text=text, images=image)["input_ids"][0]
    assert ids == [BOS, USER, *[IMAGE] * 576, *slot[: at + 1]]
    assert slot[at] == ASSISTANT


# Targets


def test_patches_belong_to_what_covers_them():
    rng = np.random.default_rng(0)
    for _ in range(20):
        objects = sample_objects(rng, "train", 8)
        owner = owners(objects)
        for row, column in zip(*np.nonzero(owner >= 0), strict=True):
            thing = objects[owner[row, column]]
            offset = max(abs(column * 8 + 4 - thing.x), abs(row * 8 + 4 - thing.y))
            assert offset <= thing.size / 2 + PATCH / 2 + 1
        assert set(range(len(objects))) <= set(owner.flatten().tolist())
        assert (owner == BACKGROUND).mean() > 0.5


def test_what_a_text_names():
    assert mentions("Is there a red circle?").tolist() == [[0, 0], [-2, -2]]
    assert mentions("How many crosses are there?").tolist() == [[-1, 5], [-2, -2]]
    assert mentions("Which is bigger, the ring or the blue star?").tolist() == [[-1, 6], [5, 4]]
    assert mentions("What colour is the biggest shape?").tolist() == [[-2, -2]] * 2


def test_answers_are_where_they_are_looked_for(batch):
    rows = processor().tokenizer.batch_decode(wanted(batch).flatten(0, 1)[:, :1])
    choices = {choice for e in suites.load(n=160) for choice in e.choices}
    assert set(rows) <= choices


def test_what_is_held_out_is_held_out():
    known = digits.samples
    assert not {s for v in range(10) for s in known("train", v)} & {
        s for v in range(10) for s in known("validation", v)
    }
    train = collate([scene(np.random.default_rng([0, 0, 0, 0]), "train") for _ in range(2)])
    assert not torch.equal(held_out("validation", 2)["image"], train["image"])


# Optimiser


@pytest.mark.parametrize("shape", [(3, 32, 32), (2, 64, 16), (2, 16, 64)])
def test_orthogonal_brings_singular_values_near_one(shape):
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonal(torch.randn(shape)))
    assert values.min() > 0.3
    assert values.max() < 1.3


# The whole recipe


@pytest.mark.slow
def test_smoke_run_resumes_and_can_be_loaded(tmp_path):
    main(["--smoke", "--out", str(tmp_path)])
    lines = [json.loads(line) for line in (tmp_path / "log.txt").read_text().splitlines()]
    steps = [line["step"] for line in lines if "step" in line]
    assert steps == [2, 4, 2, 4]
    assert all(np.isfinite(line["kind"]) for line in lines if "step" in line)

    run = main(["--smoke", "--out", str(tmp_path), "--language-steps", "6"])
    lines = [json.loads(line) for line in (tmp_path / "log.txt").read_text().splitlines()]
    assert [line["step"] for line in lines if "step" in line] == [2, 4, 2, 4, 6]

    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "weights", dtype="float32")
    AutoProcessor.from_pretrained(tmp_path / "weights")
    trained = run.towers.llava.lm_head.weight
    torch.testing.assert_close(model.lm_head.weight, trained, atol=1e-2, rtol=1e-2)
    assert (tmp_path / "weights" / "text_tower" / "visual_projection.safetensors").exists()
