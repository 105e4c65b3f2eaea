"""Arguments that speak of the prompt's columns: shortened with it, or refused."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from zoo.base import KINDS

import lftr
from lftr.hosts.transformers.api import takes_columns_by_row
from lftr.values.errors import ArgumentError, UnsupportedModelError

from .support import FAMILIES, PLAIN, SQUARE, Image, Prompt, Row, ZooEntry, distance, reduced

NAMES = ["llava", "qwen2_5_vl", "internvl", "gemma3"]
SIDES = ["left", "right"]


@pytest.fixture(params=NAMES)
def prompt(request: Any) -> Prompt:
    return Prompt(FAMILIES[request.param])


def check_logits(prompt: Prompt, side: Any, asked: Any, expected: Tensor, rows: Any = ...) -> None:
    """The logits asked for, or, on releases that take one index for all rows, a refusal."""
    with reduced(prompt.model, "uniform"):
        try:
            found = prompt.forward(side, logits_to_keep=asked).logits
        except UnsupportedModelError as error:
            if takes_columns_by_row() or "one row at a time" not in str(error):
                raise
        else:
            torch.testing.assert_close(found[rows], expected[rows], rtol=0, atol=1e-4)


def text_columns(prompt: Prompt, side: Any, last: int) -> Tensor:
    """The last columns of text of every row ``(B, last)``, in the caller's prompt."""
    inputs = prompt.inputs(side)
    real = inputs["attention_mask"].bool() & ~prompt.visual(inputs["input_ids"])
    rows = [row.nonzero().squeeze(1)[-last:] for row in real]
    return torch.stack(rows)


def whole_logits(prompt: Prompt, side: Any, columns: Tensor) -> Tensor:
    """Logits of those columns, each row computed alone."""
    found = []
    for row, wanted in enumerate(columns):
        alone = prompt.alone(row)
        mask = prompt.inputs(side)["attention_mask"][row].bool()
        place = (mask.cumsum(0) - 1)[wanted]  # without padding
        length = alone.inputs()["input_ids"].shape[1]
        with reduced(alone.model, "uniform") as run:
            logits = alone.forward().logits[0]
        assert run.report.received == len(logits)
        found.append(logits[place - length])  # text after the images: counted from the end
    return torch.stack(found)


@pytest.mark.parametrize("side", SIDES)
def test_columns_of_each_row(prompt: Prompt, side: str) -> None:
    columns = text_columns(prompt, side, 2)
    expected = whole_logits(prompt, side, columns)
    check_logits(prompt, side, columns, expected)


@pytest.mark.parametrize("side", SIDES)
def test_columns_of_all_rows(prompt: Prompt, side: str) -> None:
    """One index for the batch, from the front or the end, is another column in every short row."""
    rows = [row for row in range(len(prompt.rows)) if row != 1]
    short = Prompt(prompt.entry, [prompt.rows[row] for row in rows], prompt.model)
    inputs = short.inputs(side)
    text = inputs["attention_mask"].bool() & ~short.visual(inputs["input_ids"])
    after = short.visual(inputs["input_ids"]).int().flip(1).cumsum(1).flip(1) == 0
    common = (text & after).all(dim=0).nonzero().squeeze(1)
    if not len(common):
        pytest.skip("rows have no column of text in common behind their images")
    columns = common[-2:].expand(len(rows), -1)
    expected = whole_logits(short, side, columns)
    length = inputs["input_ids"].shape[1]
    for asked in (common[-2:], common[-2:] - length):
        check_logits(short, side, asked, expected)


@pytest.mark.skipif(not takes_columns_by_row(), reason="upstream: no masks of columns yet")
@pytest.mark.parametrize("side", SIDES)
def test_a_mask_of_columns(prompt: Prompt, side: str) -> None:
    columns = text_columns(prompt, side, 2)
    expected = whole_logits(prompt, side, columns)
    marks = torch.zeros_like(prompt.inputs(side)["input_ids"], dtype=torch.bool)
    marks.scatter_(1, columns, True)
    check_logits(prompt, side, marks, expected.flatten(0, 1))


def test_a_number_of_last_columns(prompt: Prompt) -> None:
    with reduced(prompt.model, "uniform"):
        every = prompt.forward().logits
        last = prompt.forward(logits_to_keep=2).logits
    torch.testing.assert_close(last, every[:, -2:], rtol=0, atol=1e-5)
    single = Prompt(prompt.entry, [SQUARE, [2, *SQUARE[1:]], PLAIN], prompt.model)
    last = single.inputs("right")["attention_mask"].sum(dim=1) - 1
    longest = last == last.max()
    expected = whole_logits(single, "right", last[:, None])
    check_logits(single, "right", 1, expected, longest)


def test_columns_that_were_dropped(prompt: Prompt) -> None:
    place = prompt.visual(prompt.inputs()["input_ids"]).nonzero()[:, 1]
    asked = torch.arange(int(place.min()), int(place.max()) + 1)
    with reduced(prompt.model, "uniform"), pytest.raises(ArgumentError, match="logits_to_keep"):
        prompt.forward(logits_to_keep=asked)


@pytest.mark.parametrize("column", [-1000, 1000])
def test_columns_that_are_not_there(llava: ZooEntry, column: int) -> None:
    prompt = Prompt(llava)
    with reduced(prompt.model), pytest.raises(ArgumentError, match="logits_to_keep"):
        prompt.forward(logits_to_keep=torch.tensor([column]))


def test_arguments_that_nobody_knows(llava: ZooEntry) -> None:
    """What has a value for each column and is not known is refused by name, not left too long."""
    prompt = Prompt(llava)
    labels = prompt.inputs()["input_ids"]
    with reduced(prompt.model), pytest.raises(ArgumentError, match=r"shift_labels = \(3, "):
        prompt.forward(labels=labels, shift_labels=labels)
    with reduced(prompt.model, keep=1.0):
        prompt.forward(labels=labels, shift_labels=labels)


# ---- positions="compact" ------------------------------------------------------------------------


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl", "glm4v", "internvl"])
def test_compact_rows_do_not_depend_on_each_other(name: str, side: Any) -> None:
    """A row that loses nothing stays as it is, whatever its batch mates lose."""
    entry = FAMILIES[name]
    sizes = {kind: entry.counts(entry.model(), Image(kind)) for kind in KINDS}
    small, large = min(sizes, key=sizes.__getitem__), max(sizes, key=sizes.__getitem__)
    prompt = Prompt(entry, [[3, Image(large), 2], [2, Image(small), 3], [6]])
    count = sizes[small]
    assert count < sizes[large]
    with lftr.reduce(prompt.model, "uniform", tokens=count, positions="compact"):
        together = prompt.forward(side).logits
        short = lftr.prepare(prompt.model, **prompt.inputs(side))["attention_mask"]
        for row in range(3):
            alone = prompt.alone(row).forward().logits[0, -1]
            assert distance(together[row, short[row].nonzero().max()], alone) < 1e-4


def test_compact_in_a_later_turn() -> None:
    """What a cache holds of a row that lost nothing goes on at its own positions."""
    entry = FAMILIES["qwen2_5_vl"]
    model = entry.model()
    rows: list[Row] = [[2, Image("square"), 3], [2, Image("small"), 3]]
    count = entry.counts(model, Image("small"))
    assert count < entry.counts(model, Image("square"))
    options = {"max_new_tokens": 2, "do_sample": False, "return_dict_in_generate": True}
    more = torch.tensor([[20, 21, 22]])
    found = []
    with lftr.reduce(model, "uniform", tokens=count, positions="compact"):
        for chosen in (rows, rows[:1], rows[1:]):
            inputs = entry.inputs(model, chosen)
            begun = model.generate(**inputs, **options)
            ids = torch.cat([begun.sequences, more.expand(len(chosen), -1)], dim=1)
            ones = torch.ones(len(ids), ids.shape[1] - inputs["attention_mask"].shape[1])
            mask = torch.cat([inputs["attention_mask"], ones.long()], dim=1)
            cache = {"past_key_values": begun.past_key_values}
            output = model.generate(
                input_ids=ids, attention_mask=mask, output_logits=True, **cache, **options
            )
            found.append(output.logits[0])
    assert distance(found[0], torch.cat(found[1:])) < 1e-4


# ---- limits, and arguments of wrong types -------------------------------------------------------


@pytest.mark.parametrize("way", ["argument", "configuration"])
def test_max_length_is_told_in_the_callers_count(prompt: Prompt, way: str) -> None:
    from transformers import GenerationConfig

    length = prompt.inputs()["input_ids"].shape[1]
    options: dict[str, Any] = {"max_length": length}
    if way == "configuration":
        options = {"generation_config": GenerationConfig(max_length=length, pad_token_id=0)}
    with (
        reduced(prompt.model),
        pytest.raises(ArgumentError, match=rf"max_length = {length}.*{length} columns"),
    ):
        prompt.model.generate(**prompt.inputs(), **options)


@pytest.mark.parametrize("name", ["llava", "blip_2", "mllama"])
@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("attention_mask", {"full_attention": torch.ones(1, 1, 4, 4)}),
        ("attention_mask", [[1, 1]]),
        ("attention_mask", torch.ones(3, 1, 4, 4)),
        ("input_ids", [[1, 2]]),
        ("position_ids", "original"),
        ("labels", 3),
    ],
)
def test_what_is_no_tensor(name: str, argument: str, value: Any) -> None:
    if name not in FAMILIES:
        pytest.skip("not in this zoo")
    prompt = Prompt(FAMILIES[name])
    with (
        lftr.reduce(prompt.model, "random", keep=0.5),
        pytest.raises(ArgumentError, match=f"{argument} = "),
    ):
        prompt.model(**prompt.inputs() | {argument: value})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"text": 5}, "text = 5"),
        ({"text": []}, r"text = \[\]"),
        ({"text": ("a" for _ in range(2))}, "text = <generator"),
        ({"text": [1, 2]}, r"text = \[1, 2\]"),
        ({"text": b"what?"}, "text = b'what"),
        ({"processor": 5}, "processor = 5"),
        ({"processor": SimpleNamespace(tokenizer="bert")}, "processor = "),
        ({"text_tower": "clip"}, "text_tower = 'clip'"),
        ({"guidance": 5}, "guidance = 5"),
        ({"guidance": [5]}, r"text = \[5\]"),
        ({"guidance": "a", "text": "b"}, "text = 'b'; allowed: one of guidance and text"),
        ({"guidance": lftr.Guidance(), "processor": print}, "processor = .* one of guidance and"),
        ({"preset": 5}, "preset = 5"),
        ({"encoder": "tome"}, "encoder = 'tome'"),
        ({"stage": 1}, "stage = 1"),
        ({"stage": ["llm"]}, "stage = "),
        ({"positions": ["compact"]}, "positions = "),
        ({"images_as_video": "yes"}, "images_as_video = 'yes'"),
        ({"images_as_video": 2}, "images_as_video = 2"),
    ],
)
def test_arguments_of_reduce(llava: ZooEntry, options: dict[str, Any], words: str) -> None:
    given = {"keep": 0.5} if "preset" not in options else {}
    with pytest.raises(ArgumentError, match=words):
        lftr.reduce(llava.model(), **given, **options)
    assert lftr.reductions(llava.model()) == []


def test_unknown_arguments_of_reduce(llava: ZooEntry) -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'keeps'"):
        lftr.reduce(llava.model(), keeps=0.5)  # type: ignore[call-arg]


@pytest.mark.parametrize("model", [None, 3, "llava", torch.nn.Linear(1, 1)], ids=str)
def test_prepare_of_no_model(model: Any) -> None:
    with pytest.raises(lftr.LftrError):
        lftr.prepare(model, input_ids=torch.ones(1, 2, dtype=torch.long))


@pytest.mark.parametrize(
    ("module", "method", "keep", "grid", "words"),
    [
        (None, "uniform", 0.5, None, "module = "),
        (torch.nn.Linear(2, 2), 5, 0.5, None, "method = 5"),
        (torch.nn.Linear(2, 2), "fastv", 0.5, None, "method = "),
        (torch.nn.Linear(2, 2), "uniform", None, None, "keep = None"),
        (torch.nn.Linear(2, 2), "uniform", 0.5, "square", "grid = 'square'"),
        (torch.nn.Linear(2, 2), "uniform", 0.5, (1, 0, 3), "grid = "),
    ],
)
def test_arguments_of_reduce_module(
    module: Any, method: Any, keep: Any, grid: Any, words: str
) -> None:
    with pytest.raises(ArgumentError, match=words):
        lftr.reduce_module(module, method, keep, grid=grid)
