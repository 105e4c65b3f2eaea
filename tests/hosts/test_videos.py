"""What is particular to videos: frames, timestamps, clips beside images, budgets over both."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from zoo import RELEASE

import lftr
from lftr.methods import Adaptive
from lftr.values.errors import ArgumentError, UnsupportedModelError

from .oracle import true_logits
from .support import (
    FAMILIES,
    MIXED,
    VIDEOS,
    Image,
    Prompt,
    Row,
    Videos,
    assert_close,
    assert_true,
    conversation,
    distance,
    images_of,
    reduced,
    seen,
)
from .test_turns import Chat

CLIP, NEXT = Image("wide", 1), Image("square", 3)
STILL, OTHER = Image("tall", 2), Image("small", 4)


def test_every_family_with_video_is_in_the_zoo() -> None:
    from lftr.hosts.transformers.families import list_families

    shown = {entry.model().config.model_type for entry in VIDEOS.values()}
    alike = {"glmga"}  # a class of the zoo under another name
    known = set(list_families(video=True))
    assert shown <= known
    if RELEASE >= (5, 24):  # older releases lack families, or their clips
        assert shown | alike == known


# a clip is one item, and its tokens fill a grid
WHOLE = [v for v in VIDEOS.values() if v.traits.unit != "part" and not v.traits.thinned]


@pytest.fixture(params=WHOLE, ids=str)
def clips(request: pytest.FixtureRequest) -> Videos:
    value: Videos = request.param
    return value


@pytest.fixture(params=MIXED.values(), ids=str)
def mixed(request: pytest.FixtureRequest) -> Videos:
    value: Videos = request.param
    return value


BOTH: dict[str, list[Row]] = {
    "image first": [[2, STILL, 1, CLIP, 3]],
    "video first": [[2, CLIP, 1, STILL, 3]],
    "several of each": [[CLIP, 2, STILL, NEXT, 1, OTHER], [4], [OTHER, 1, CLIP, 2]],
    "in rows of their own": [[2, STILL, 1], [CLIP, 3]],
}


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("rows", BOTH.values(), ids=BOTH)
def test_images_and_videos(mixed: Videos, rows: list[Row], side: Any) -> None:
    prompt = Prompt(mixed, rows)
    with reduced(prompt.model, keep=0.3) as run:
        assert_true(prompt, run, prompt.generate())
        together = run.choices()
        short = run.reduction.prepare(**prompt.inputs(side))
    sizes = [mixed.row_sizes(prompt.model, row) for row in rows]
    items = [[size for image in row for size in image] for row in sizes]
    assert [item.tokens for item in run.report.items] == [size for row in items for size in row]
    assert [item.number for item in run.report.items] == [
        i for row in items for i in range(len(row))
    ]
    shown = [
        "video" if mixed.is_clip(image) else "image"
        for row, parts in zip(rows, sizes, strict=True)
        for image, part in zip(images_of(row), parts, strict=True)
        for _ in part
    ]
    assert [item.medium for item in run.report.items] == shown
    assert set(short["mm_encoder_outputs"]) == {"image", "video"}
    with reduced(prompt.model, keep=0.3) as run:
        prompt.alone(0).generate(1)
        for one, other in zip(together, run.choices(), strict=True):
            assert torch.equal(one.selection.index, other.selection.index)


@pytest.mark.parametrize(
    "name", [name for name in ("glm4v", "molmo2", "nemotron_h_omni") if name in VIDEOS]
)
def test_they_cannot_be_told_apart(name: str) -> None:
    """These count one placeholder for both; plain transformers fails too."""
    both = Videos(VIDEOS[name].family, mixed=True)
    prompt = Prompt(both, [[2, STILL, 1, CLIP, 3]])
    with pytest.raises(ValueError, match=r"do not match|at the same time|feature vectors"):
        prompt.generate(1)
    with (
        lftr.reduce(prompt.model, "random", keep=0.5),
        pytest.raises(UnsupportedModelError, match="images or videos in one call"),
    ):
        prompt.generate(1)


@pytest.fixture
def glm4v() -> Videos:
    return VIDEOS["glm4v"]


class First(lftr.Method):
    """Keeps the first tokens: late frames lose all of theirs."""

    def choose(self, tokens: lftr.VisualTokens, keep: int) -> lftr.Selection:
        return lftr.Selection(torch.arange(keep).expand(len(tokens.features), keep))


def test_a_frame_may_lose_all_its_tokens(clips: Videos) -> None:
    """What stands between the frames stays where it is: text, marks and the time of each."""
    prompt = Prompt(clips, [[2, CLIP, 3]])
    with reduced(prompt.model, First(), 4) as run:
        assert_true(prompt, run, prompt.generate())
        short = run.reduction.prepare(**prompt.inputs())
    frames = run.report.items[0].kept_by_frame
    assert frames[0] == (0, 1, 2, 3)
    assert set(frames[1:]) == {()}
    full = prompt.inputs()["input_ids"][0]
    ids = short["input_ids"][0]
    assert torch.equal(ids[~prompt.visual(ids)], full[~prompt.visual(full)])


def test_grids(clips: Videos) -> None:
    if clips.name == "perception_lm":
        pytest.skip("its clips in the zoo have two frames, and no pairs of them")
    prompt = Prompt(clips, [[2, CLIP, 3]])
    with reduced(prompt.model, keep=0.4) as run:
        prompt.generate(1)
    tokens, item = run.method.tokens[0], run.report.items[0]
    assert tokens.grid is not None
    assert tokens.grid[0] == 3
    assert item.grids == (tokens.grid,)
    assert item.grid == tokens.grid
    shape = "x".join(map(str, tokens.grid))
    assert f"row 0 item 0: video of {item.tokens} ({shape}) -> {item.kept}" in str(run.report)
    apart = 0 if tokens.separator is None else int(tokens.separator.sum())
    assert apart == {"video_llava": 3, "llava_onevision": 1, "hy_v4_vl": 6}.get(clips.name, 0)
    assert sum(map(len, item.kept_by_frame)) == item.kept  # separators go first


def test_frame_features(clips: Videos) -> None:
    """CLS outputs where there are any, else means of what the encoder made of the frame."""
    if clips.name == "perception_lm":
        pytest.skip("its clips in the zoo have two frames, and its tower no attention to read")
    prompt = Prompt(clips, [[2, CLIP, 3]])
    attends = clips.name != "gemma4_unified"  # which has no tower
    needs = ("frame_features", "encoder_features", *["attention_received"] * attends)
    tokens = seen(prompt, *needs)[0].without_separators()
    frames, encoder = tokens.frame_features, tokens.encoder_features
    assert frames is not None
    assert encoder is not None
    means = encoder.unflatten(0, (3, -1)).mean(dim=1)
    assert frames.shape == means.shape
    assert (distance(frames, means) < 1e-5) != clips.traits.has_cls
    assert not torch.equal(frames[0], frames[1])


def test_a_class_token_is_no_patch() -> None:
    """Video-LLaVA shows the class token of each frame to the language model."""
    clips = VIDEOS["video_llava"]
    prompt = Prompt(clips, [[2, CLIP, 3]])
    tokens = seen(prompt, "cls_attention", "encoder_features", keep=0.9)[0]
    assert tokens.separator is not None
    assert tokens.separator.nonzero().squeeze(1).tolist() == [0, 17, 34]
    assert tokens.cls_attention is not None
    assert (tokens.cls_attention[:, tokens.separator] == 0).all()
    pixels = prompt.inputs()["pixel_values_videos"][0]
    states = prompt.model.model.video_tower(pixels, output_hidden_states=True).hidden_states[-2]
    assert distance(tokens.encoder_features, states.flatten(0, 1)) < 1e-5


@pytest.mark.parametrize("first", [STILL, CLIP], ids=["an image", "a clip"])
@pytest.mark.parametrize("second", [OTHER, NEXT], ids=["an image", "a clip"])
def test_a_second_turn(mixed: Videos, first: Image, second: Image) -> None:
    """A medium that the first turn had, or another, with the pixels of the new one alone."""
    with reduced(mixed.model()) as run:
        chat = Chat(mixed, run, old=first)
        chat.say(20, second, 21, 22)
        inputs = chat.given()
        pixels = set(mixed.visual_inputs(chat.model, [[first, second]]))
        inputs = {name: value for name, value in inputs.items() if name not in pixels}
        chat.answer(inputs | mixed.visual_inputs(chat.model, [[second]]), chat.cache)
        chat.say(23)
        chat.answer(chat.given(), chat.cache)  # all pixels again: none is encoded


def test_a_second_turn_in_the_prompts_order() -> None:
    """Old clips are not given again, images were none: both are ordered by the whole prompt."""
    mixed = MIXED["qwen2_vl"]
    with reduced(mixed.model()) as run:
        chat = Chat(mixed, run, old=CLIP)
        chat.say(20, OTHER, 21, NEXT, 22)
        inputs = chat.given() | mixed.visual_inputs(chat.model, [[OTHER, NEXT]])
        chat.answer(inputs, chat.cache)
        assert [item.medium for item in run.report.items] == ["image", "video"]


@pytest.mark.parametrize(("first", "second"), [(STILL, NEXT), (CLIP, OTHER)], ids=str)
def test_turn_by_turn_they_can_be_told_apart(glm4v: Videos, first: Image, second: Image) -> None:
    """GLM-4V's cache holds the one medium, the new columns the other, whatever pixels are given."""
    both = Videos(glm4v.family, mixed=True)
    model = both.model()
    found = []
    for shown in ([first, second], [second]):
        with reduced(model, First(), 4) as run:
            output = model.generate(**Prompt(both, [[2, first, 1]]).inputs(), **ONE)
            ids = [*output.sequences[0].tolist(), 20, *both.image_ids(model, second), 21]
            given = both.batch(model, [ids], [[first, second]])
            given = {k: v for k, v in given.items() if "pixel" not in k and "grid" not in k}
            given |= both.visual_inputs(model, [shown])
            cache = output.past_key_values
            found.append(model.generate(**given, past_key_values=cache, **ONE).logits[0])
        assert [item.medium for item in run.report.items] == [
            "video" if both.is_clip(second) else "image"
        ]
    assert torch.equal(*found)


ONE: dict[str, Any] = {
    "max_new_tokens": 1,
    "do_sample": False,
    "return_dict_in_generate": True,
    "output_logits": True,
}


@pytest.mark.parametrize("pixels", ["all", "new"])
@pytest.mark.parametrize("times", ["all", "new", "few"])
def test_a_second_turn_in_time(pixels: str, times: str) -> None:
    """The new clip is placed by its own seconds, which are the last of those of all turns."""
    entry, old = VIDEOS["qwen2_5_vl"], Image("small", 1)
    with reduced(entry.model()) as run:
        chat = Chat(entry, run, old=old)
        chat.say(20, NEXT, 21)
        inputs, alone = chat.given(), entry.visual_inputs(chat.model, [[NEXT]])
        seconds = {"all": inputs["second_per_grid_ts"], "new": alone["second_per_grid_ts"]}
        seconds["few"] = seconds["all"][:0]
        inputs |= alone if pixels == "new" else {}
        inputs |= {"second_per_grid_ts": seconds[times]}
        if times == "few" or (pixels, times) == ("all", "new"):
            with pytest.raises(ArgumentError, match=r"second_per_grid_ts = .*allowed: \d, one for"):
                chat.answer(inputs, chat.cache)
        else:
            chat.answer(inputs, chat.cache)


# a grid's seconds: of the old and the new clip of each row, of the new ones, of too few
TIMES = {"all": [0.5, 1.0, 2.0, 3.0], "new": [1.0, 3.0], "few": [1.0]}


@pytest.mark.parametrize(
    ("pixels", "times"), [("all", "all"), ("new", "new"), ("new", "all"), ("new", "few")]
)
def test_a_second_turn_of_two_rows(pixels: str, times: str) -> None:
    """Each row's new clip is placed by its own seconds, or it is said that nothing tells whose."""
    entry = VIDEOS["qwen2_5_vl"]
    prompt = Prompt(entry, [[2, Image("small", 1), 1], [4, Image("square", 3), 2]])
    model, rows = prompt.model, prompt.rows
    shown = [[rows[0][1], Image("wide", 5)], [rows[1][1], Image("wide", 7)]]
    with reduced(model) as run:
        inputs = prompt.inputs() | {"second_per_grid_ts": torch.tensor([0.5, 2.0])}
        output = model.generate(**inputs, **ONE)
        choices = [run.choices(row) for row in (0, 1)]
        more = torch.tensor([[20, *entry.image_ids(model, Image("wide", 5)), 21]] * 2)
        ids = torch.cat([output.sequences, more], dim=1)
        added = ids.shape[1] - inputs["input_ids"].shape[1]
        mask = torch.nn.functional.pad(inputs["attention_mask"], (0, added), value=1)
        given = shown if pixels == "all" else [row[1:] for row in shown]
        call = {"input_ids": ids, "attention_mask": mask, **entry.token_inputs(model, ids, mask)}
        call |= entry.visual_inputs(model, given)
        call |= {"second_per_grid_ts": torch.tensor(TIMES[times])}
        call |= {"past_key_values": output.past_key_values, **ONE}
        if pixels == "new" and times != "new":
            with pytest.raises(ArgumentError, match=r"second_per_grid_ts = .*allowed: 2, one for"):
                model.generate(**call)
            return
        logits = model.generate(**call).logits[0]
        choices = [choices[row] + run.choices(row) for row in (0, 1)]
    for row in (0, 1):
        words = ids[row, mask[row].bool()]
        whole = conversation(entry, model, words.tolist(), shown[row])
        whole["second_per_grid_ts"] = torch.tensor(TIMES["all"][2 * row : 2 * row + 2])
        truth = true_logits(model, whole, prompt.visual(words), choices[row])
        assert_close(entry, logits[row], truth[0], slack=5)


def test_budget_of_a_prompt(mixed: Videos) -> None:
    prompt = Prompt(mixed, [[2, STILL, 1, CLIP, 3], [CLIP, 2]])
    with reduced(prompt.model, keep=lftr.Budget(total=9)) as run:
        prompt.generate(1)
    kept = [sum(i.kept for i in run.report.items if i.row == row) for row in (0, 1)]
    assert kept == [9, 9]
    with reduced(prompt.model, keep=3) as run:
        prompt.generate(1)
    assert [i.kept for i in run.report.items] == [min(3, i.tokens) for i in run.report.items]


FRAMES_APART = "llava_next_video" not in VIDEOS  # before transformers 5.20


@pytest.mark.skipif(not FRAMES_APART, reason="this release gives clips in one tensor")
def test_clips_that_come_frame_by_frame_are_refused() -> None:
    prompt = Prompt(Videos(FAMILIES["llava_next_video"]), [[2, CLIP, 3]])
    with reduced(prompt.model), pytest.raises(UnsupportedModelError, match=r"5\.20"):
        prompt.generate(1)


@pytest.mark.skipif(FRAMES_APART, reason="clips that come frame by frame are refused")
def test_adaptive_spreads_over_frames() -> None:
    """A frame that shows one colour has less to say than one of noise."""
    prompt = Prompt(VIDEOS["llava_next_video"], [[2, CLIP, 3]])
    inputs = prompt.inputs()
    inputs["pixel_values_videos"][:, 1] = 0.0
    prompt.model.model.vision_tower.embeddings.position_embedding.weight.data.mul_(scale := 1e-3)
    try:
        with lftr.reduce(prompt.model, Adaptive("uniform", strength=2.0), tokens=6) as reduction:
            prompt.model.generate(**inputs, max_new_tokens=1)
    finally:
        prompt.model.model.vision_tower.embeddings.position_embedding.weight.data.div_(scale)
    kept = [len(frame) for frame in reduction.report.items[0].kept_by_frame]
    assert sum(kept) == 6
    assert kept[1] < min(kept[0], kept[2])


def test_encodes_at_another_size() -> None:
    prompt = Prompt(VIDEOS["qwen2_5_vl"], [[2, CLIP, 3]])
    with reduced(prompt.model, "downsample", 9) as run:
        prompt.generate(2)
    assert [len(frame) for frame in run.report.items[0].kept_by_frame] == [3, 3, 3]


def test_placed_later_than_the_text_after_them() -> None:
    """Qwen2.5-VL places frames by their time, which may be far beyond the text that follows."""
    entry = VIDEOS["qwen2_5_vl"]
    prompt = Prompt(entry, [[2, CLIP, 1]])
    places = prompt.model._prepare_position_ids_for_generation(
        prompt.inputs()["input_ids"], prompt.inputs()
    )
    assert int(places[1].max()) > int(places[1, 0, -1])
    with reduced(entry.model()) as run:
        chat = Chat(entry, run, old=CLIP)
        chat.say(20, NEXT, 21)
        chat.answer(chat.given(), chat.cache)
