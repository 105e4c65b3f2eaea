"""The text that guides methods, without an engine."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

import lftr
from lftr import VisualTokens
from lftr.hosts.vllm.request.request_setting import RequestSetting
from lftr.values.evidence import fields_from

from . import tiny

QWEN = "qwen2_vl"


def questions(template: str | None = None) -> Any:
    """What finds the texts of prompts of a Qwen2-VL, with this chat template."""
    from lftr.hosts.vllm.request.question import Questions

    config = tiny.ENTRIES[QWEN].config()
    config.architectures = ["Qwen2VLForConditionalGeneration"]
    tokenizer = tiny._tokenizer(QWEN)
    tokenizer.chat_template = template
    info = SimpleNamespace(
        get_hf_config=lambda: config,
        get_tokenizer=lambda: tokenizer,
        get_hf_processor=lambda: SimpleNamespace(chat_template=None),
        ctx=SimpleNamespace(model_config=SimpleNamespace(try_get_generation_config=dict)),
    )
    return Questions(info)


def ids(text: str) -> list[int]:
    encoded: list[int] = tiny._tokenizer(QWEN).encode(text, add_special_tokens=False)
    return encoded


def test_a_long_text_is_refused() -> None:
    from lftr.hosts.vllm.request.question import MOST_IDS

    finder = questions()
    sign = tiny.sign_of(QWEN)
    one = {"image": 1}
    (text,) = finder.of_items(ids(sign + " t7" * MOST_IDS), one, "last")["image"]
    assert len(text) == MOST_IDS
    with pytest.raises(lftr.ArgumentError, match=f"text of {MOST_IDS + 1} tokens .*{MOST_IDS} "):
        finder.of_items(ids(sign + " t7" * (MOST_IDS + 1)), one, "last")


ROLES = (
    "{% for message in messages %}{{ ' t50 ' if message.role == 'user' else ' t60 t61 ' }}"
    "{{ THOUGHT }} {{ message.content }} t51 {% endfor %}"
)
FIRST = f"t50 {tiny.sign_of(QWEN)} t9 t51"


def template(asking: str, thought: str = "''") -> str:
    """A chat template, in which answers begin with t60 t61."""
    ending = "{% if add_generation_prompt %} " + asking + "{% endif %}"
    return ROLES.replace("THOUGHT", thought) + ending


THINKING = "'t70' if loop.last and message.role != 'user' else ''"


@pytest.mark.parametrize(
    ("asking", "thought"),
    [("t60 t61", "''"), ("t60 t61 t70 t71", "''"), ("t60 t61 t70", THINKING)],
)
def test_first_is_the_same_text_in_later_turns(asking: str, thought: str) -> None:
    """Also where what asks for an answer goes on with thinking, which earlier answers leave out."""
    finder = questions(template(asking, thought))
    assert finder.answer_mark.tolist() == ids("t60 t61")
    sign = tiny.sign_of(QWEN)
    begun = f"{FIRST} {asking}"
    later = f"{FIRST} t60 t61 t90 t51 t50 {sign} t10 t51 {asking}"
    latest = f"{later.removesuffix(asking)} t60 t61 t91 t51 t50 t11 t51 {asking}"
    text = begun.replace(sign, "")
    (first,) = finder.of_items(ids(begun), {"image": 1}, "first")["image"]
    (last,) = finder.of_items(ids(begun), {"image": 1}, "last")["image"]
    assert first.tolist() == last.tolist() == ids(text)
    two = finder.of_items(ids(later), {"image": 2}, "first")["image"]
    three = finder.of_items(ids(latest), {"image": 2}, "first")["image"]
    assert [one.tolist() for one in two] == [one.tolist() for one in three]
    assert two[0].tolist() == first.tolist()
    assert two[1].tolist() == ids(later.replace(sign, ""))


def test_a_line_break_may_become_a_part_of_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with tokenizers that have a token for two line breaks."""
    finder = questions(template("t60 t61"))
    decode = {61: "\n"}
    tokenizer = finder.info.get_tokenizer()
    monkeypatch.setattr(tokenizer, "decode", lambda one: decode.get(one[0], "x"))
    assert finder.answer_mark.tolist() == ids("t60")
    later = ids(f"{FIRST} t60 t62 t90 t51 t50 t10 t51 t60 t61")
    (text,) = finder.of_items(later, {"image": 1}, "first")["image"]
    assert text.tolist() == ids("t50 t9 t51 t60 t61")


def test_first_without_an_answer_is_all_text() -> None:
    finder = questions(template("t60 t61"))
    (text,) = finder.of_items(ids(FIRST), {"image": 1}, "first")["image"]
    assert text.tolist() == ids("t50 t9 t51")


@pytest.mark.parametrize("asking", [None, "", "t70"])
def test_a_template_without_a_mark_is_refused(asking: str | None) -> None:
    finder = questions(None if asking is None else template(asking))
    with pytest.raises(lftr.ArgumentError, match="does not mark where an answer begins"):
        _ = finder.answer_mark


class Texts:
    """Stands for the text reader; counts what it embeds."""

    def __init__(self) -> None:
        self.read_texts: list[list[int]] = []

    def read(self, fields: frozenset[str], question: Any) -> dict[str, torch.Tensor]:
        if not fields:
            return {}
        self.read_texts.append(question.tolist())
        return {"text_token_embeds": torch.ones(len(question), 4)}


def with_texts(settings: list[RequestSetting], texts: list[Any]) -> tuple[list[Any], Texts]:
    """The groups in which items are chosen among, and the reader of their texts."""
    from lftr.hosts.vllm.model.reducing import Reducing
    from lftr.hosts.vllm.request.request_setting import seen_by

    reader = Texts()
    tokens = {i: VisualTokens(torch.rand(6, 4)) for i in range(len(settings))}
    provided = fields_from("features", "prompt")
    wanted = {i: seen_by(one.method, provided) for i, one in enumerate(settings)}
    model: Any = SimpleNamespace(texts=reader)
    groups = Reducing._groups(model, lambda: tokens, wanted, settings, texts)
    return [dict(zip(members, read(), strict=True)) for members, read in groups], reader


def test_a_text_is_embedded_once_for_its_items() -> None:
    trim, uniform = (RequestSetting(lftr.get_method(n), 0.5) for n in ("trim", "uniform"))
    short = [torch.tensor([n, n + 1], dtype=torch.int32) for n in (1, 1, 5, 1)]
    groups, reader = with_texts([trim, trim, trim, uniform], [*short[:3], None])
    assert [list(group) for group in groups] == [[0, 1, 2], [3]]
    assert reader.read_texts == [[1, 2], [5, 6]]
    rows = [one.text_token_embeds for one in groups[0].values()]
    assert rows[0] is rows[1]
    assert rows[0] is not rows[2]
    assert groups[1][3].text_token_embeds is None


def test_groups_of_long_texts_are_split() -> None:
    """What methods stack stays bounded; the next group of a text has the same embeddings."""
    from lftr.hosts.vllm.request.question import MOST_IDS

    trim = RequestSetting(lftr.get_method("trim"), 0.5)
    whole, half = torch.ones(MOST_IDS).int(), torch.ones(MOST_IDS // 2).int()
    groups, reader = with_texts([trim] * 6, [whole, whole, whole, half, half, half])
    assert [list(group) for group in groups] == [[0], [1], [2], [3, 4], [5]]
    assert len(reader.read_texts) == 2
