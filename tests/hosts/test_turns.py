"""A second turn on the returned cache: what was dropped stays dropped, whoever gives the ids."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from zoo import RELEASE

import lftr

from .oracle import SUFFIX, true_logits
from .support import (
    EVERY,
    Choice,
    Image,
    Prompt,
    Run,
    ZooEntry,
    assert_close,
    conversation,
    distance,
    reduced,
    skip_unasked,
)

OLD, NEW_IMAGE, LARGE = Image("small", 1), Image("tall", 2), Image("square", 3)
ANSWER = 3


@pytest.fixture(params=EVERY, ids=str, scope="session")
def entry(request: pytest.FixtureRequest) -> ZooEntry:
    value: ZooEntry = request.param
    return value


def skip_later_turns(entry: ZooEntry) -> None:
    """Skip what plain transformers of this release cannot run: any later turn."""
    if entry.name == "ernie4_5_vl_moe" and RELEASE < (5, 23):
        pytest.skip("generate does not cut moe_mm_token_type_ids to the new tokens: it raises")


class Chat:
    """One row that grows turn by turn, its decisions and the cache of the last turn."""

    def __init__(
        self, entry: ZooEntry, run: Run, positions: str = "original", old: Image | None = OLD
    ) -> None:
        self.entry, self.run, self.positions = entry, run, positions
        self.model = entry.model()
        self.images = [] if old is None else [old]
        self.ids = entry.row_ids(self.model, [3, *self.images, 2])
        self.first = len(self.ids)
        self.choices: list[Choice] = []
        self.answer(self.given())

    def given(self) -> dict[str, Any]:
        """Inputs of the whole conversation so far."""
        inputs = conversation(self.entry, self.model, self.ids, self.images)
        if "token_type_ids" in inputs:  # PaliGemma reads what follows its first prompt as a suffix
            fill = SUFFIX.get(self.model.config.model_type)
            if fill is not None:
                inputs["token_type_ids"][:, self.first :] = fill
        return inputs

    def say(self, *segments: int | Image) -> None:
        """Extend the prompt by text tokens and images."""
        skip_later_turns(self.entry)
        for segment in segments:
            if isinstance(segment, Image):
                if self.images and self.entry.traits.one_block:
                    pytest.skip("images of an earlier turn do not see those of a later one")
                if (fault := self.entry.traits.fault("second_turn")) is not None:
                    pytest.skip(fault)
                self.ids += self.entry.image_ids(self.model, segment)
                self.images.append(segment)
            else:
                self.ids.append(segment)

    def answer(self, inputs: dict[str, Any], cache: Any = None) -> Any:
        """Generate, check every step against the truth, and go on."""
        inputs = {name: value for name, value in inputs.items() if name != "labels"}
        given = {} if cache is None else {"past_key_values": cache}
        output = self.model.generate(
            **inputs,
            **given,
            max_new_tokens=ANSWER,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
        new = output.sequences[0, -ANSWER:].tolist()
        assert output.sequences[0, :-ANSWER].tolist() == inputs["input_ids"][0].tolist()
        whole = self.given()
        visual = self.entry.is_visual(self.model, whole["input_ids"][0])
        if sum(choice.size for choice in self.choices) < int(visual.sum()):
            self.choices += self.run.choices()
        truth = true_logits(self.model, whole, visual, self.choices, new[:-1], self.positions)
        assert_close(self.entry, torch.cat(list(output.logits)), truth, slack=5)
        self.ids = [*self.ids, *new]
        self.cache = output.past_key_values
        return output


def new_alone(chat: Chat, image: Image | None) -> dict[str, Any]:
    """Inputs of the whole conversation, with the pixels of the newest image alone, or none."""
    inputs = chat.given()
    seconds = {"second_per_grid_ts", "video_second_per_grid"}
    arguments = {*chat.entry.feature_arguments, *seconds, "batch_num_images", "image_num_crops"}
    inputs = {name: value for name, value in inputs.items() if name not in arguments}
    if image is None:
        return inputs
    alone = conversation(chat.entry, chat.model, chat.ids, [image])
    return inputs | {name: alone[name] for name in arguments if name in alone}


@pytest.mark.parametrize("pixels", ["none", "all"])
@pytest.mark.parametrize("positions", ["original", "compact"])
def test_all_ids(entry: ZooEntry, positions: str, pixels: str) -> None:
    """Text alone is added; a chat template gives the old image again, and it is not encoded."""
    skip_unasked(entry, positions)
    with reduced(entry.model(), positions=positions) as run:
        chat = Chat(entry, run, positions)
        chat.say(20, 21)
        inputs = chat.given() if pixels == "all" else new_alone(chat, None)
        run.method.selections = []
        kept = run.report.kept
        chat.answer(inputs, chat.cache)
        assert run.method.selections == []
        assert run.report.kept == kept


@pytest.mark.parametrize(("old", "keep"), [(None, 0.4), (OLD, 40)], ids=["words", "a small image"])
def test_an_image_after_what_stayed_whole(entry: ZooEntry, old: Image | None, keep: float) -> None:
    """A chat that begins without an image, or with one that is too small to lose a token."""
    with reduced(entry.model(), keep=keep) as run:
        chat = Chat(entry, run, old=old)
        chat.say(20, LARGE, 21, 22)
        chat.answer(new_alone(chat, LARGE), chat.cache)
        assert run.report.kept <= run.report.tokens


@pytest.mark.parametrize("mask", ["full", "none"])
def test_new_ids(entry: ZooEntry, mask: str) -> None:
    with reduced(entry.model()) as run:
        chat = Chat(entry, run)
        chat.say(20, 21)
        inputs = new_alone(chat, None)
        given = {name: value[:, -3:] for name, value in inputs.items() if name != "attention_mask"}
        if mask == "full":
            given["attention_mask"] = inputs["attention_mask"]
        chat.answer(given, chat.cache)


@pytest.mark.parametrize("positions", ["original", "compact"])
@pytest.mark.parametrize("pixels", ["new", "all"])
def test_new_image(entry: ZooEntry, pixels: str, positions: str) -> None:
    skip_unasked(entry, positions)
    with reduced(entry.model(), positions=positions) as run:
        chat = Chat(entry, run, positions)
        chat.say(20, NEW_IMAGE, 21, 22)
        inputs = chat.given() if pixels == "all" else new_alone(chat, NEW_IMAGE)
        chat.answer(inputs, chat.cache)


def test_new_image_by_new_ids(entry: ZooEntry) -> None:
    with reduced(entry.model()) as run:
        chat = Chat(entry, run)
        before = len(chat.ids) - 1
        chat.say(20, NEW_IMAGE, 21, 22)
        inputs = new_alone(chat, NEW_IMAGE)
        rows = {"input_ids", "token_type_ids", "mm_token_type_ids", "moe_mm_token_type_ids"}
        given = {k: v[:, before:] if k in rows else v for k, v in inputs.items()}
        chat.answer(given, chat.cache)


def test_three_turns_on_copies(entry: ZooEntry) -> None:
    """Two continuations of one cache, each in its own copy, and a third turn after both."""
    with reduced(entry.model()) as run:
        chat = Chat(entry, run)
        ids, images, choices = list(chat.ids), list(chat.images), list(chat.choices)
        cache = chat.cache
        for question in (20, 30):
            chat.ids, chat.images, chat.choices = list(ids), list(images), list(choices)
            chat.say(question, NEW_IMAGE, 21)
            chat.answer(new_alone(chat, NEW_IMAGE), copy.deepcopy(cache))
            chat.say(40, 41)
            chat.answer(new_alone(chat, None), chat.cache)


def test_batch(entry: ZooEntry) -> None:
    """Rows of different lengths, left-padded, go on together."""
    skip_later_turns(entry)
    prompt = Prompt(entry, [[3, Image("wide"), 2], [2, Image("small", 1), 5]])
    with reduced(prompt.model) as run:
        output = prompt.generate(ANSWER)
        choices = [run.choices(row) for row in range(2)]
        ids = torch.cat([output.sequences, torch.tensor([[20, 21], [30, 31]])], dim=1)
        mask = torch.nn.functional.pad(prompt.inputs()["attention_mask"], (0, ANSWER + 2), value=1)
        options = {"past_key_values": output.past_key_values, "attention_mask": mask}
        options |= prompt.entry.token_inputs(prompt.model, ids, mask)
        options.pop("labels", None)
        second = prompt.model.generate(
            input_ids=ids,
            **options,
            max_new_tokens=1,
            return_dict_in_generate=True,
            output_logits=True,
        )
    for row in range(2):
        words = ids[row, mask[row].bool()].tolist()
        whole = conversation(entry, prompt.model, words, [prompt.rows[row][1]])
        if "token_type_ids" in whole:
            fill = SUFFIX.get(prompt.model.config.model_type, 0)
            whole["token_type_ids"][:, -ANSWER - 2 :] = fill
        visual = prompt.visual(torch.tensor(words))
        truth = true_logits(prompt.model, whole, visual, choices[row], placed=prompt.placed(row))
        assert_close(entry, second.logits[0][row], truth[0])


def test_the_plain_model_is_lost_on_such_a_cache(llava: ZooEntry) -> None:
    """Why the cache remembers: all ids beside a short cache silently give another answer."""
    with reduced(llava.model()) as run:
        chat = Chat(llava, run)
        chat.say(20, 21)
        cache = copy.deepcopy(chat.cache)
        good = chat.answer(new_alone(chat, None), chat.cache).logits[0]
    del chat.ids[-ANSWER:]
    bad = llava.model().generate(
        **new_alone(chat, None),
        past_key_values=cache,
        max_new_tokens=1,
        return_dict_in_generate=True,
        output_logits=True,
    )
    assert distance(bad.logits[0], good) > 1e-2


def test_other_rows_are_refused(llava: ZooEntry) -> None:
    prompt = Prompt(llava, [[3, OLD, 2]])
    with reduced(prompt.model):
        output = prompt.generate(1)
        two = Prompt(llava, [[3, OLD, 2], [4, OLD, 2]]).inputs()
        with pytest.raises(lftr.LftrError, match="the cache holds 1 rows"):
            prompt.model.generate(**two, past_key_values=output.past_key_values)


def test_a_cache_of_the_plain_model_is_refused(llava: ZooEntry) -> None:
    """An image cannot be added, reduced, to what was cached before the reduction began."""
    prompt = Prompt(llava, [[3, OLD, 2]])
    output = prompt.generate(1)
    ids = [*output.sequences[0].tolist(), *llava.image_ids(prompt.model, NEW_IMAGE), 21]
    inputs = conversation(llava, prompt.model, ids, [OLD, NEW_IMAGE])
    with (
        lftr.reduce(prompt.model, "random", keep=0.4),
        pytest.raises(lftr.LftrError, match="from a call without reduction"),
    ):
        prompt.model.generate(**inputs, past_key_values=output.past_key_values)
