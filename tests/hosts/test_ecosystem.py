"""Beside everything else that people do to a model: compile, offload, cast, pipelines, chats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import lftr
from lftr.methods import PyramidDrop
from lftr.methods.inside.schedules import Step

from .support import (
    FAMILIES,
    HOSTED,
    Image,
    Prompt,
    ZooEntry,
    assert_close,
    assert_true,
    distance,
    fresh,
    reduced,
)


def answer(prompt: Prompt, **options: Any) -> list[list[int]]:
    length = prompt.inputs()["input_ids"].shape[1]
    return prompt.generate(**options).sequences[:, length:].tolist()


def expected(entry: ZooEntry, method: Any) -> list[list[int]]:
    prompt = Prompt(entry)
    with lftr.reduce(prompt.model, method, keep=0.4):
        return answer(prompt)


# ---- numbers -----------------------------------------------------------------------------------


def test_bfloat16(entry: ZooEntry) -> None:
    prompt = Prompt(entry, model=entry.build().bfloat16())
    inputs = {
        name: value.bfloat16() if torch.is_tensor(value) and value.is_floating_point() else value
        for name, value in prompt.inputs().items()
    }
    with lftr.reduce(prompt.model, "lftr", tokens=5) as reduction:
        output = prompt.model.generate(**inputs, max_new_tokens=2)
    assert output.shape[1] == inputs["input_ids"].shape[1] + 2
    assert all(item.kept == min(5, item.tokens) for item in reduction.report.items)


def test_eager_is_sdpa(entry: ZooEntry) -> None:
    """The same tokens stay, and the same logits come, whatever kernel attends."""
    found = []
    for kind in ("sdpa", "eager"):
        prompt = Prompt(entry, model=entry.model(kind))
        with lftr.reduce(prompt.model, "lftr", keep=0.4) as reduction:
            logits = prompt.generate(1).logits[0]
        found.append((logits, [item.positions for item in reduction.report.items]))
    assert found[0][1] == found[1][1]
    assert_close(entry, found[1][0], found[0][0], slack=5)


# ---- torch.compile -----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("way", ["wrapped", "in place", "forward"])
def test_compiled(llava: ZooEntry, way: str) -> None:
    """A compiled model is reduced as the plain one is; taken off, it is the plain one again."""
    plain, prompt = Prompt(llava), Prompt(llava, model=fresh(llava))
    full = plain.forward().logits
    with lftr.reduce(plain.model, "lftr", keep=0.4):
        short, words = plain.forward().logits, answer(plain, new=2)
    torch.compiler.reset()
    if way == "wrapped":
        prompt.model = torch.compile(prompt.model, backend="eager")
    elif way == "in place":
        prompt.model.compile(backend="eager")
    else:
        prompt.model.forward = torch.compile(prompt.model.forward, backend="eager")
    with lftr.reduce(prompt.model, "lftr", keep=0.4) as reduction:
        assert_close(llava, prompt.forward().logits, short)
        assert reduction.report.received == short.shape[1]
        if way == "forward":
            assert answer(prompt, new=2) == words
    assert_close(llava, prompt.forward().logits, full)


# ---- accelerate --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [n for n in ("llava", "llava_next", "qwen3_vl", "llama4", "gemma4") if n in FAMILIES],
)
@pytest.mark.parametrize("way", ["cpu", "offloaded to cpu", "offloaded to disk"])
def test_device_map(name: str, way: str, tmp_path: Path) -> None:
    accelerate = pytest.importorskip("accelerate")
    entry = FAMILIES[name]
    prompt = Prompt(entry, model=fresh(entry))
    if name == "gemma4" and way != "cpu":
        pytest.skip("upstream: the plain model cannot be offloaded, its pooler's weights stay away")
    if way == "cpu":
        accelerate.dispatch_model(prompt.model, {"": "cpu"}, force_hooks=True)
    elif way == "offloaded to cpu":
        accelerate.cpu_offload(prompt.model, execution_device=torch.device("cpu"))
    else:
        accelerate.disk_offload(prompt.model, tmp_path, execution_device=torch.device("cpu"))
    # without and with a look into the encoder's attention, and into that of a layer to come
    ahead = ["lftr", PyramidDrop(Step(max(1, entry.traits.deepstack), 0.5))]
    for method in ("lftr", "visionzip", ahead):
        with lftr.reduce(prompt.model, method, keep=0.4):
            assert answer(prompt) == expected(entry, method)


# ---- what a family has of its own --------------------------------------------------------------


def planes_of(output: Any) -> list[Any]:
    """The planes of an encoder's output; Granite 4 Vision's come with the numbers of layers."""
    planes = output.deepstack_features
    return [plane[1] if isinstance(plane[0], int) else plane for plane in planes]


@pytest.mark.parametrize("entry", [e for e in HOSTED if e.traits.deepstack], ids=str)
def test_deepstack_planes_are_reduced(entry: ZooEntry) -> None:
    """The planes that are added in the first layers hold the same tokens as the features."""
    prompt = Prompt(entry)
    with reduced(prompt.model, "tome", weights="none") as run:
        short = run.reduction.prepare(**prompt.inputs())
        outputs = short["mm_encoder_outputs"].values()
        for planes in zip(*map(planes_of, outputs), strict=True):
            assert sum(len(part) for plane in planes for part in plane) == run.report.kept
        assert {len(planes_of(output)) for output in outputs} == {entry.traits.deepstack}
        full = prompt.generate(1).logits[0][0]
    choices = run.choices(0)
    for output in outputs:  # without them the answer is another
        for plane in planes_of(output):
            plane[0].zero_()
    assert distance(prompt.model(**short).logits[0, -1], full) > 1e-2
    assert_close(entry, full, prompt.truth(0, choices, exponent=0.0)[0], slack=2)


@pytest.mark.parametrize("name", ["gemma3", "gemma4", "paligemma"])
def test_kept_tokens_still_see_each_other(name: str) -> None:
    """Bidirectional blocks are there after reduction: an image's first token sees its last."""
    entry = FAMILIES[name]
    prompt = Prompt(entry, [[3, Image("square"), 2]])
    with reduced(prompt.model, "uniform") as run:
        short = run.reduction.prepare(**prompt.inputs())
    states = []
    for change in (0.0, 1.0):
        features = short["mm_encoder_outputs"]["image"]
        rows = features.pooler_output[0] if entry.name == "gemma4" else features.pooler_output
        rows.view(-1, rows.shape[-1])[-1] += change
        states.append(prompt.model(**short, output_hidden_states=True).hidden_states[-1])
    first = int(prompt.visual(short["input_ids"])[0].nonzero()[0])
    assert distance(states[0][0, first], states[1][0, first]) > 1e-4
    if entry.name != "paligemma":  # a prefix LM: everything sees everything
        assert distance(states[0][0, first - 1], states[1][0, first - 1]) == 0.0


@pytest.fixture(scope="module")
def pixtral() -> Any:
    """Pixtral 12B's structure: a Pixtral tower inside LLaVA, images at their own size."""
    from transformers import LlavaConfig, LlavaForConditionalGeneration, PixtralVisionConfig
    from zoo.parts import IMAGE, llama

    vision = PixtralVisionConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=64,
        patch_size=4,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=llama(),
        image_token_index=IMAGE,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration._from_config(config, attn_implementation="sdpa")
    model = model.float().eval().requires_grad_(False)
    FAMILIES["llava"].redraw(model, 0)
    model.generation_config.pad_token_id = 0
    return model


@pytest.mark.parametrize("method", ["random", "lftr", "tome", "scope"])
def test_pixtral_in_llava(pixtral: Any, method: str) -> None:
    sizes = torch.tensor([[16, 40], [48, 24]])
    pixels = torch.zeros(2, 3, 48, 40)
    for values, (high, wide) in zip(pixels, sizes.tolist(), strict=True):
        values[:, :high, :wide] = torch.randn(3, high, wide)
    counts = [40, 72]
    rows = [[1, 20, *[199] * counts[0], 21, 22], [1, *[199] * counts[1], 30]]
    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    inputs = {
        "input_ids": ids,
        "attention_mask": (ids != 0).long(),
        "pixel_values": pixels,
        "image_sizes": sizes,
    }
    options = {"max_new_tokens": 3, "do_sample": False, "output_logits": True}
    with reduced(pixtral, method, 0.25) as run:
        output = pixtral.generate(**inputs, **options, return_dict_in_generate=True)
    assert [item.grids for item in run.report.items] == [((1, 4, 10),), ((1, 12, 6),)]
    from .oracle import true_logits

    for row, words in enumerate(rows):
        alone = {
            "input_ids": torch.tensor([words]),
            "attention_mask": torch.ones(1, len(words), dtype=torch.long),
            "pixel_values": pixels[row : row + 1, :, : sizes[row, 0], : sizes[row, 1]],
            "image_sizes": sizes[row : row + 1],
        }
        new = output.sequences[row, width:].tolist()
        visual = torch.tensor(words) == 199
        truth = true_logits(pixtral, alone, visual, run.choices(row), new[:-1])
        found = torch.stack([step[row] for step in output.logits])
        assert_close(FAMILIES["llava"], found, truth, slack=2)


# ---- the bundled model, through what people use --------------------------------------------------


@pytest.fixture(scope="module")
def bundled() -> Any:
    return lftr.bundled.load()


@pytest.fixture
def picture() -> Any:
    from PIL import Image as Pictures

    values = torch.randint(0, 255, (96, 96, 3), generator=torch.Generator().manual_seed(0))
    return Pictures.fromarray(values.byte().numpy())


def turn(role: str, text: str, picture: Any = None) -> dict[str, Any]:
    images = [] if picture is None else [{"type": "image", "image": picture}]
    return {"role": role, "content": [*images, {"type": "text", "text": text}]}


def test_pipeline(bundled: Any, picture: Any) -> None:
    from transformers import pipeline

    model, processor = bundled
    pipe = pipeline("image-text-to-text", model=model, processor=processor)
    messages = [turn("user", "what is left of the circle?", picture)]
    inputs = processor.apply_chat_template(
        messages, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True
    )
    options = {"max_new_tokens": 6, "do_sample": False}
    with lftr.reduce(model, "lftr", keep=1 / 4) as reduction:
        ids = model.generate(**inputs, **options)
        kept = reduction.report.kept
        told = pipe(messages, generate_kwargs=options, return_full_text=False)
        several = pipe([messages, messages], generate_kwargs=options, return_full_text=False)
        assert reduction.report.kept == kept < reduction.report.tokens
    text = processor.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert told[0]["generated_text"].strip() == text.strip()
    assert len(several) == 2


def test_chat(bundled: Any, picture: Any) -> None:
    """Three turns on one cache are three prompts told in full, with the same tokens dropped."""
    model, processor = bundled
    messages = [turn("user", "what is left of the circle?", picture)]
    options = {"max_new_tokens": 4, "do_sample": False, "return_dict_in_generate": True}

    def prompt() -> Any:
        return processor.apply_chat_template(
            messages,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            add_generation_prompt=True,
        )

    with reduced(model, "lftr", 1 / 4) as run:
        cache = None
        for question in ("how many squares?", "is there a red star?", "thank you"):
            inputs = prompt()
            going_on = {} if cache is None else {"past_key_values": cache}
            output = model.generate(**inputs, **going_on, **options)
            again = model.generate(**inputs, **options)
            assert torch.equal(output.sequences, again.sequences)
            cache = output.past_key_values
            new = output.sequences[0, inputs["input_ids"].shape[1] :]
            messages.append(turn("assistant", processor.decode(new, skip_special_tokens=True)))
            messages.append(turn("user", question))
        assert run.report.kept < run.report.tokens


def test_bundled_is_the_truth(bundled: Any, picture: Any) -> None:
    from .oracle import true_logits

    model, processor = bundled
    inputs = processor.apply_chat_template(
        [turn("user", "which shape is red?", picture)],
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        add_generation_prompt=True,
    )
    options = {"max_new_tokens": 3, "do_sample": False, "output_logits": True}
    with reduced(model, "lftr", 1 / 16) as run:
        output = model.generate(**inputs, **options, return_dict_in_generate=True)
    visual = inputs["input_ids"][0] == model.config.image_token_id
    new = output.sequences[0, inputs["input_ids"].shape[1] :].tolist()
    truth = true_logits(model, dict(inputs), visual, run.choices(), new[:-1])
    found = torch.cat(list(output.logits))
    assert distance(found, truth) < 1e-4 * max(1.0, float(truth.abs().max()))


def test_support_is_used() -> None:
    """The checks of this folder can fail: a wrong truth is not taken for one."""
    prompt = Prompt(FAMILIES["llava"])
    with reduced(prompt.model) as run:
        output = prompt.generate()
        assert_true(prompt, run, output)
    with pytest.raises(AssertionError):
        assert_true(prompt, run, output, positions="compact")
