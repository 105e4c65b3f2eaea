"""`generate` and `forward` keep their abilities where layers hold different tokens."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

import lftr
from lftr.methods.inside.schedules import Exit, Step

from ..oracle import full_positions
from ..support import (
    PLAIN,
    SQUARE,
    WIDE,
    Image,
    Prompt,
    ZooEntry,
    assert_close,
    conversation,
)
from .oracle import Recorder, Truth, Turn
from .support import INSIDE, Planned, Text, Unrotated, first_layer, methods_for


@pytest.fixture(params=INSIDE, ids=str, scope="session")
def family(request: pytest.FixtureRequest) -> ZooEntry:
    value: ZooEntry = request.param
    return value


def method_of(entry: ZooEntry) -> lftr.LayerMethod:
    """Reads attention where the layer before has some, and states otherwise."""
    return (
        Planned(Exit(first_layer(entry)))
        if entry.traits.stateful
        else methods_for(entry)["previous"]
    )


def tokens(prompt: Prompt, method: Any, **options: Any) -> list[list[int]]:
    with lftr.reduce(prompt.model, method):
        found = prompt.generate(**options).sequences
    return found[:, prompt.inputs()["input_ids"].shape[1] :].tolist()


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("kind", ["previous", "own", "merging", "exit"])
def test_a_batch_is_its_rows(family: ZooEntry, kind: str, side: str) -> None:
    """Rows of different lengths and counts, one of them without an image."""
    if side == "right" and "right_padding" in family.traits.upstream:
        pytest.skip(family.traits.upstream["right_padding"])
    if family.traits.stateful and kind in ("previous", "own"):
        pytest.skip("the first layers have no attention to read")
    prompt = Prompt(family)
    method = methods_for(family)[kind]
    with lftr.reduce(prompt.model, method):
        together = prompt.forward(side=side).logits
        mask = prompt.inputs(side)["attention_mask"]
        for row in range(len(prompt.rows)):
            one, given = prompt.alone(row), {}
            if family.name == "hunyuan_vl":  # places of a row depend on the rows before it
                places = full_positions(one.model, one.inputs(), 0)
                given = {"position_ids": prompt.placed(row)(places)}
            alone = one.forward(**given).logits[0]
            assert_close(family, together[row, mask[row].bool()][-3:], alone[-3:], slack=3)


def test_a_batch_generates_what_its_rows_do(family: ZooEntry) -> None:
    prompt = Prompt(family)
    method = method_of(family)
    together = tokens(prompt, method)
    assert together == [tokens(prompt.alone(row), method)[0] for row in range(len(prompt.rows))]


SAME: dict[str, dict[str, Any]] = {
    "static_cache": {"cache_implementation": "static", "disable_compile": True},
    "no_cache": {"use_cache": False},
    "assisted": {"prompt_lookup_num_tokens": 2},
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", SAME)
def test_same_tokens(family: ZooEntry, name: str) -> None:
    if name in family.traits.upstream:
        pytest.skip(family.traits.upstream[name])
    prompt = Prompt(family, [WIDE] if name == "assisted" else [WIDE, SQUARE])
    method = method_of(family)
    assert tokens(prompt, method, new=6, **SAME[name]) == tokens(prompt, method, new=6)


def test_assistant_model(family: ZooEntry) -> None:
    """Its guesses stand behind the prompt from the first forward on, and are not part of it."""
    if (reason := family.traits.cannot("assistant_model")) is not None:
        pytest.skip(reason)
    prompt, method = Prompt(family, [WIDE]), Recorder(method_of(family))
    plain = Recorder(method_of(family))
    expected = tokens(prompt, plain, new=6)
    assert tokens(prompt, method, new=6, assistant_model=family.build(seed=1)) == expected
    # PaliGemma's prompt sees what follows it, guesses too, without lftr as well
    if not family.traits.stateful and family.name != "paligemma":
        chosen = [[choice.index.tolist() for _, _, choice in r.said] for r in (method, plain)]
        assert chosen[0] == chosen[1]


def test_beams(family: ZooEntry) -> None:
    prompt = Prompt(family, [WIDE, PLAIN, SQUARE])
    method = method_of(family)
    together = tokens(prompt, method, num_beams=3)
    alone = [tokens(prompt.alone(row), method, num_beams=3)[0] for row in range(len(prompt.rows))]
    assert together == alone


def test_nothing_dropped_is_the_plain_model(family: ZooEntry) -> None:
    prompt = Prompt(family)
    plain = prompt.generate()
    for never in (Planned(Exit(1.0)), Planned(Step(first_layer(family), 1.0))):
        with lftr.reduce(prompt.model, never) as reduction:
            found = prompt.generate()
        assert torch.equal(found.sequences, plain.sequences)
        assert all(torch.equal(a, b) for a, b in zip(found.logits, plain.logits, strict=True))
        assert {layer.tokens for layer in reduction.report.layers} == {reduction.report.tokens}


def test_the_cache_holds_what_is_left(family: ZooEntry) -> None:
    prompt = Prompt(family, [WIDE])
    method = method_of(family)
    with lftr.reduce(prompt.model, method) as reduction:
        output = prompt.generate(new=1)
    cache, length = output.past_key_values, prompt.inputs()["input_ids"].shape[1]
    visual = reduction.report.tokens
    counts = method.schedule.counts(visual, len(cache.layers))
    taken = 0
    for layer, count, told in zip(cache.layers, counts, reduction.report.layers, strict=True):
        assert told.tokens == count
        assert told.columns == (length - visual + count,)
        if getattr(layer, "keys", None) is None:
            continue
        window = getattr(layer, "sliding_window", length + 1) - 1
        assert layer.keys.shape[-2] == min(*told.columns, window)
        taken += layer.keys.nbytes + layer.values.nbytes
    assert reduction.report.cache_bytes == taken
    assert reduction.report.cache_bytes <= reduction.report.full_cache_bytes
    assert cache.get_seq_length() == length


def test_the_report_knows_who_is_left(family: ZooEntry) -> None:
    """Of every item, the tokens that the last layer with any works on."""
    if family.traits.stateful:
        pytest.skip("the first layers have no attention to read")
    prompt = Prompt(family, [WIDE])
    recorder = Recorder(methods_for(family)["previous"])
    with lftr.reduce(prompt.model, recorder) as reduction:
        prompt.forward()
    left = torch.arange(reduction.report.tokens)
    for _, _, choice in recorder.said:
        left = left[choice.index]
    found, offset = [], 0
    for item in reduction.report.items:
        inner = reduction.report.innermost(item)
        found += [] if inner is None else [offset + place for place in inner.positions]
        offset += item.tokens
    assert found == left.tolist()


def test_the_model_is_left_as_it_was(family: ZooEntry) -> None:
    prompt = Prompt(family, [WIDE])
    plain = prompt.generate()
    before = {id(module): dict(module.__dict__) for module in prompt.model.modules()}
    tokens(prompt, method_of(family))
    for module in prompt.model.modules():
        assert set(module.__dict__) == set(before[id(module)])
        assert (
            not module._forward_pre_hooks.keys() - before[id(module)]["_forward_pre_hooks"].keys()
        )
        assert len(module._forward_hooks_always_called) == 0
    again = prompt.generate()
    assert all(torch.equal(a, b) for a, b in zip(again.logits, plain.logits, strict=True))


class Chat:
    """A row that grows turn by turn on the returned cache, against the truth."""

    def __init__(self, entry: ZooEntry, method: lftr.LayerMethod) -> None:
        self.entry, self.model, self.recorder = entry, entry.model(), Recorder(method)
        self.images = [Image("square", 2)]
        self.ids = entry.row_ids(self.model, [3, *self.images, 2])
        self.turns: list[Turn] = []
        self.cache: Any = None

    def given(self, images: list[Image]) -> dict[str, Any]:
        return conversation(self.entry, self.model, self.ids, images)

    def answer(self, inputs: dict[str, Any]) -> None:
        self.recorder.said = []
        known = sum(len(turn.columns) for turn in self.turns)
        with lftr.reduce(self.model, self.recorder):
            output = self.model.generate(
                **inputs,
                past_key_values=self.cache,
                max_new_tokens=3,
                do_sample=False,
                output_logits=True,
                return_dict_in_generate=True,
            )
        whole = self.given(self.images)
        visual = self.entry.is_visual(self.model, whole["input_ids"][0])
        self.turns.append(Turn(visual.nonzero().squeeze(1)[known:], list(self.recorder.said)))
        new = output.sequences[0, -3:].tolist()
        truth = Truth(self.model, whole, self.turns).logits(new[:-1])
        assert_close(self.entry, torch.cat(list(output.logits)), truth, slack=5)
        self.ids = [*self.ids, *new]
        self.cache = output.past_key_values


@pytest.mark.parametrize("kind", ["previous", "own", "own text", "unrotated"])
@pytest.mark.parametrize("image", [False, True], ids=["words", "an image"])
def test_turns(family: ZooEntry, image: bool, kind: str) -> None:
    """A second and a third turn on the returned cache, with and without a new image."""
    if family.traits.stateful:
        pytest.skip("no mask can hide tokens from linear attention, so there is no such truth")
    if family.name == "paligemma":
        pytest.skip("reads what follows its first prompt as a suffix")
    if image and ("second_turn" in family.traits.upstream or family.traits.one_image):
        pytest.skip(family.traits.upstream.get("second_turn", "one image in a row"))
    if kind == "unrotated" and family.name == "dots3_note":
        pytest.skip("its layers choose keys by their positions")
    step = Step(first_layer(family), 0.4)
    methods = methods_for(family) | {"own text": Text(step), "unrotated": Unrotated(step)}
    chat = Chat(family, methods[kind])
    chat.answer(chat.given(chat.images))
    assert chat.recorder.said
    # of one the cache holds latent states, of the other layers choose among cached keys
    if image and kind.startswith("own") and family.name in ("kimi_k25", "dots3_note"):
        chat.ids += [20, *chat.entry.image_ids(chat.model, Image("tall", 4)), 22]
        chat.images.append(Image("tall", 4))
        with pytest.raises(lftr.LftrError, match="cannot be read before the layer runs"):
            chat.answer(chat.given(chat.images))
        return
    chat.ids += [20, 21]
    if image:
        # with the seed 4, keys of score 0 tie where dots3_note's layers cut their choice
        new = Image("tall", 5)
        chat.ids += chat.entry.image_ids(chat.model, new)
        chat.images.append(new)
    chat.ids += [22]
    chat.answer(chat.given(chat.images))
    assert bool(chat.recorder.said) == image
    chat.ids += [23]
    chat.answer(chat.given(chat.images))


def test_copies_of_a_cache_go_on_alike(family: ZooEntry) -> None:
    prompt = Prompt(family, [WIDE])
    with lftr.reduce(prompt.model, method_of(family)):
        cache = prompt.generate(new=2).past_key_values
        other = copy.deepcopy(cache)
        ids = torch.tensor([[33]])
        first = prompt.model(input_ids=ids, past_key_values=cache).logits
        assert other.get_seq_length() == cache.get_seq_length() - 1
        assert torch.equal(prompt.model(input_ids=ids, past_key_values=other).logits, first)


@pytest.mark.parametrize("cached", [True, False])
def test_a_generate_within_a_generate(cached: bool) -> None:
    """A callback asks another question; the outer call goes on with its own decisions."""
    entry = next(one for one in INSIDE if one.name == "llava")
    prompt, other = Prompt(entry, [WIDE]), Prompt(entry, [SQUARE])

    def asking(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        other.generate(1)
        return scores

    recorder = Recorder(methods_for(entry)["previous"])
    with lftr.reduce(prompt.model, recorder):
        expected = prompt.generate(3, use_cache=cached).logits
        alone = len(recorder.said)
        nested = prompt.generate(3, use_cache=cached, logits_processor=[asking]).logits
    assert all(torch.equal(left, right) for left, right in zip(nested, expected, strict=True))
    assert len(recorder.said) == 2 * alone + 3 * alone  # one decision for each inner call
