"""Clips through processors: video processors are told when frames were; others get images.

The tests of transformers' own video processors need torchvision; ``scripts/test-video`` runs them.
"""

from __future__ import annotations

import importlib.util
import json
import types

import pytest
import torch
from PIL import Image

import lftr
from lftr.media import Clip
from lftr.prompting import batch_inputs, frames_as_images, inputs_of
from lftr.values.errors import ArgumentError

STILL = Image.new("RGB", (112, 84), (30, 90, 200))
CLIP = Clip(
    tuple(Image.new("RGB", (112, 84), (25 * number, 80, 120)) for number in range(8)),
    tuple(0.5 * number for number in range(8)),
)
TOKENS = ["<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"]
PADS = ["<|image_pad|>", "<|video_pad|>"]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for c in m['content'] %}"
    "{% if c['type'] == 'text' %}{{ c['text'] }}{% else %}"
    "<|vision_start|><|{{ c['type'] }}_pad|><|vision_end|>{% endif %}{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


class Recording:
    """A processor with a chat template, which keeps what it was given."""

    chat_template = "there is one"

    def __init__(self, **attributes: object) -> None:
        vars(self).update(attributes)

    def apply_chat_template(self, conversations, *, processor_kwargs, **_):
        self.kinds = [[part["type"] for part in one[0]["content"]] for one in conversations]
        self.options = processor_kwargs


def test_without_a_video_processor_frames_are_images():
    processor = Recording()
    assert frames_as_images(processor, [[CLIP]]) == lftr.Frames(rows=[True])
    assert frames_as_images(processor, [[CLIP], [STILL]]) == lftr.Frames(rows=[True, False])
    assert not frames_as_images(processor, [[STILL, STILL]])
    inputs_of(processor, [CLIP], "What?")
    assert processor.kinds == [["image"] * 8 + ["text"]]
    assert processor.options == {}
    for rows in ([[CLIP, STILL]], [[CLIP, CLIP]], [[CLIP], [STILL, STILL]]):
        with pytest.raises(ArgumentError, match="one clip or one picture for each question"):
            batch_inputs(processor, [(media, "?") for media in rows])


def test_a_video_processor_is_told_when_the_frames_were():
    processor = Recording(video_processor=types.SimpleNamespace())
    batch_inputs(processor, [([STILL, CLIP], "a"), ([STILL], "b")])
    assert processor.kinds == [["image", "video", "text"], ["image", "text"]]
    assert processor.options.pop("do_sample_frames") is False
    (told,), nothing = processor.options.pop("video_metadata")
    assert nothing == []
    assert [tick / told["fps"] for tick in told["frames_indices"]] == list(CLIP.times)
    assert told["duration"] == told["total_num_frames"] / told["fps"] == 4.0
    assert processor.options == {"padding": True, "padding_side": "left"}


def test_processors_without_a_template_have_tokens_in_front():
    seen = {}

    class Bare:
        image_token, video_token = "<i>", "<v>"
        video_processor = types.SimpleNamespace()

        def __call__(self, **given):
            seen.update(given)

    inputs_of(Bare(), [CLIP, STILL], "What?")
    assert seen["text"] == ["<v><i>\nWhat?"]
    assert [len(clip) for clip in seen["videos"][0]] == [8]
    assert seen["images"] == [[STILL]]
    seen.clear()
    inputs_of(Bare(), [CLIP], "What?")
    assert "images" not in seen


@pytest.fixture(scope="module")
def torchvision():
    """Make torchvision importable here: beside a CPU-only torch, its usual build is not.

    It wants two operators of its compiled part, which video processors never call.
    """
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("needs torchvision: scripts/test-video")
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    yield importlib.import_module("torchvision")
    del library


def qwen(name: str):
    """Return a processor of transformers around the bundled model's words."""
    import transformers

    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(lftr.bundled.path() / "tokenizer.json"), pad_token="<pad>"
    )
    tokenizer.add_special_tokens({"additional_special_tokens": TOKENS + PADS})
    return getattr(transformers, f"{name}Processor")(
        image_processor=transformers.Qwen2VLImageProcessor(min_pixels=784, max_pixels=784 * 16),
        tokenizer=tokenizer,
        video_processor=getattr(transformers, f"{name}VideoProcessor")(
            size={"shortest_edge": 784, "longest_edge": 784 * 400}
        ),
        chat_template=TEMPLATE,
    )


@pytest.mark.parametrize("name", ["Qwen2VL", "Qwen3VL"])
def test_qwen_processors_get_every_frame(torchvision, name):
    processor = qwen(name)
    assert not frames_as_images(processor, [[CLIP]])
    inputs = batch_inputs(processor, [([CLIP], "a"), ([STILL, CLIP], "b"), ([CLIP, CLIP], "c")])
    assert inputs["video_grid_thw"][:, 0].tolist() == [4] * 4  # pairs of frames
    assert len(inputs["image_grid_thw"]) == 1
    if name == "Qwen3VL":
        words = processor.decode(inputs["input_ids"][0])
        for seconds in ("0.2", "1.2", "2.2", "3.2"):  # the middle of each pair
            assert f"<{seconds} seconds>" in words


@pytest.mark.slow
def test_a_qwen_answers_about_a_clip_from_the_command_line(torchvision, tmp_path):
    import transformers
    from typer.testing import CliRunner

    from lftr.app import app

    processor = qwen("Qwen2VL")
    image, video, start, end = processor.tokenizer.convert_tokens_to_ids([*PADS, *TOKENS[2:]])
    torch.manual_seed(0)
    config = transformers.Qwen2VLConfig(
        text_config={
            "vocab_size": len(processor.tokenizer),
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3]},
            "bos_token_id": None,
            "eos_token_id": None,
        },
        vision_config={"depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 2},
        image_token_id=image,
        video_token_id=video,
        vision_start_token_id=start,
        vision_end_token_id=end,
    )
    transformers.Qwen2VLForConditionalGeneration(config).save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    first, *rest = CLIP.frames
    first.save(tmp_path / "clip.gif", save_all=True, append_images=rest, duration=500)
    words = ["run", tmp_path / "clip.gif", "What?", "--model", tmp_path / "model", "--json"]
    words += ["--keep", "1/4", "--max-new-tokens", 2, "--device", "cpu"]
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, (result.output, result.exception)
    (item,) = json.loads(result.stdout)["report"]["items"]
    (grid,) = item["grids"]
    assert grid[0] == 4
    assert item["kept"] == -(-item["tokens"] // 4)
