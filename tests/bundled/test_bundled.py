"""The bundled model: loads from its folder alone, answers, and depends on what it sees."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import defaultdict

import pytest
import torch
from safetensors import safe_open

import lftr
from lftr import bundled, suites

GRID = 24


@pytest.fixture(scope="module")
def pair():
    return bundled.load()


@pytest.fixture(scope="module")
def examples():
    return list(suites.load("scenes", split="test", n=96))


def asked(processor, examples):
    chats = [
        [
            {
                "role": "user",
                "content": [
                    {"type": "image", "image": example.image},
                    {"type": "text", "text": example.question},
                ],
            }
        ]
        for example in examples
    ]
    return processor.apply_chat_template(
        chats,
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        processor_kwargs={"padding": True, "return_tensors": "pt"},
    )


def hits(model, processor, examples, size=16):
    found = []
    for start in range(0, len(examples), size):
        some = examples[start : start + size]
        inputs = asked(processor, some)
        ids = model.generate(**inputs)[:, inputs["input_ids"].shape[1] :]
        texts = processor.batch_decode(ids, skip_special_tokens=True)
        found += [e.is_correct(text) for e, text in zip(some, texts, strict=True)]
    return found


# The folder


def test_fits_the_repository():
    sizes = [file.stat().st_size for file in bundled.path().rglob("*") if file.is_file()]
    assert sum(sizes) <= 25_000_000


def test_weights_are_bfloat16():
    with safe_open(bundled.path() / "model.safetensors", "pt") as file:
        dtypes = {file.get_tensor(name).dtype for name in file.keys()}  # noqa: SIM118
    assert dtypes == {torch.bfloat16}


def test_loads_by_plain_transformers_without_network_or_torchvision():
    code = (
        "import sys; sys.modules['torchvision'] = None\n"
        "from transformers import AutoModelForImageTextToText as Model, AutoProcessor\n"
        f"model = Model.from_pretrained({str(bundled.path())!r})\n"
        f"processor = AutoProcessor.from_pretrained({str(bundled.path())!r})\n"
        "print(type(model).__name__, type(processor).__name__)"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    told = subprocess.check_output([sys.executable, "-c", code], env=environment, text=True)
    assert told.split() == ["LlavaForConditionalGeneration", "LlavaProcessor"]


def test_float32_and_evaluation_by_default(pair):
    model, _ = pair
    assert model.dtype == torch.float32
    assert not model.training


def test_another_dtype():
    model, _ = bundled.load(dtype=torch.bfloat16)
    assert model.dtype == torch.bfloat16


# The processor


def test_a_picture_of_any_size_is_576_tokens(pair, examples):
    model, processor = pair
    larger = examples[0].image.resize((500, 301))
    inputs = processor(text="<user><image> Where is it?<assistant>", images=larger)
    assert inputs["input_ids"][0].count(model.config.image_token_id) == GRID * GRID


def test_templates_agree_however_they_are_used(pair, examples):
    _, processor = pair
    at_once = asked(processor, examples[:1])["input_ids"]
    chat = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Is it red?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "no"}]},
        {"role": "user", "content": examples[0].question},
    ]
    text = processor.apply_chat_template(chat, add_generation_prompt=True)
    assert text.startswith("<user><image> Is it red?<assistant> no</s><user> ")
    plain = f"<user><image> {examples[0].question}<assistant>"
    in_two = processor(text=plain, images=examples[0].image, return_tensors="pt")["input_ids"]
    assert at_once.equal(in_two)


def test_every_word_of_the_suite_is_one_token(pair, examples):
    _, processor = pair
    for example in examples:
        words = example.question.replace("?", " ?").replace(",", " ,").split()
        assert len(processor.tokenizer.tokenize(f" {example.question}")) == len(words)
        assert len(processor.tokenizer.tokenize(f" {example.answer}")) == 1


@pytest.mark.parametrize("text", ["naïve Größe, 漢字!", "two\nlines", "a  b"])
def test_any_other_text_survives(pair, text):
    tokenizer = pair[1].tokenizer
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text


# What it answers


@pytest.mark.slow
def test_answers_the_test_split_and_needs_its_tokens(pair, examples):
    model, processor = pair
    full = hits(model, processor, examples)
    by_category = defaultdict(list)
    for example, hit in zip(examples, full, strict=True):
        by_category[example.category].append(hit)
    assert sum(full) / len(full) >= 0.95
    assert min(sum(found) / len(found) for found in by_category.values()) >= 0.8
    with lftr.reduce(model, "random", keep=1 / 16):
        few = hits(model, processor, examples)
    assert sum(few) <= 0.85 * sum(full)


# The text tower


def test_text_lies_near_the_patches_that_it_names(pair, examples):
    model, processor = pair
    tower = bundled.load_text_tower(model)
    shares = []
    for example in examples[:24]:
        thing = example.objects[0]
        alike = [o for o in example.objects if (o.colour, o.kind) == (thing.colour, thing.kind)]
        pixels = processor.image_processor(example.image, return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            states = model.model.vision_tower(pixels, output_hidden_states=True).hidden_states
        patches = tower.project(states[-2][0, 1:])
        text = tower.embed(f"a {thing.colour} {thing.kind}")[0]
        near = torch.cosine_similarity(patches, text, dim=-1).view(GRID, GRID)
        row, column = divmod(int(near.argmax()), GRID)
        x, y = 8 * column + 4, 8 * row + 4
        shares.append(any(max(abs(x - o.x), abs(y - o.y)) < o.size / 2 + 8 for o in alike))
    assert sum(shares) / len(shares) > 0.9
