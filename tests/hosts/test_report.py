"""The report is counted from what the language model received."""

from __future__ import annotations

import json
import pickle
from typing import Any

import pytest
import torch

import lftr
from lftr.methods import FastV, Merge

from .oracle import language_model
from .support import PLAIN, SQUARE, WIDE, Prompt, ZooEntry, cached, reduced
from .test_weights import Halves


def lengths(prompt: Prompt, call: Any) -> list[int]:
    """Columns of every call of the language model, by a hook of the test."""
    seen: list[int] = []

    def note(_: Any, args: Any, kwargs: dict[str, Any]) -> None:
        embeds = kwargs.get("inputs_embeds")  # Chameleon's language model is given ids
        seen.append((kwargs["input_ids"] if embeds is None else embeds).shape[1])

    handle = language_model(prompt.model).register_forward_pre_hook(note, with_kwargs=True)
    try:
        call()
    finally:
        handle.remove()
    return seen


def test_counts(entry: ZooEntry) -> None:
    prompt = Prompt(entry)
    full = prompt.inputs()["input_ids"].shape[1]
    for call in (prompt.generate, prompt.forward):
        with reduced(prompt.model) as run:
            received = lengths(prompt, call)
        report = run.report
        assert report.received == received[0] < full == report.prompt
        assert report.tokens == sum(item.tokens for item in report.items)
        assert report.kept == sum(item.kept for item in report.items)
        counts = [sum(prompt.entry.row_counts(prompt.model, row)) for row in prompt.rows]
        for row, count in enumerate(counts):
            items = [item for item in report.items if item.row == row]
            assert sum(item.tokens for item in items) == count
            assert [item.number for item in items] == list(range(len(items)))
        assert "rows without visual tokens: 1" in report.notes
        dropped = [
            sum(item.tokens - item.kept for item in report.items if item.row == row)
            for row in range(len(counts))
        ]
        widths = prompt.inputs()["attention_mask"].sum(dim=1).tolist()
        assert received[0] == max(w - d for w, d in zip(widths, dropped, strict=True))


def test_everything_kept(entry: ZooEntry) -> None:
    prompt = Prompt(entry)
    with reduced(prompt.model, keep=1.0) as run:
        received = lengths(prompt, prompt.generate)
    assert run.report.received == received[0] == run.report.prompt
    assert run.report.kept == run.report.tokens


def test_as_json_and_text(entry: ZooEntry) -> None:
    prompt = Prompt(entry)
    with lftr.reduce(prompt.model, "lftr", keep=0.4) as reduction:
        assert "no visual tokens" in str(reduction.report)
        prompt.generate(1)
    report = reduction.report
    told = json.loads(json.dumps(report.to_dict()))
    assert told["kept"] == report.kept
    assert told["received"] == report.received
    assert [item["kept"] for item in told["items"]] == [item.kept for item in report.items]
    text = str(report)
    assert text.startswith("lftr report: method lftr, ")
    assert f"{report.tokens} -> {report.kept} visual tokens" in text
    merged = next(item for item in report.items if item.stands_for > item.kept)
    assert f"-> {merged.kept}, standing for {merged.stands_for:.0f} tokens" in text
    assert min(report.encode_ms, report.method_ms, report.host_ms) > 0


@pytest.mark.parametrize("weights", ["none", 0.5, "size"])
def test_slots_stand_for_tokens_where_they_have_weights(llava: ZooEntry, weights: Any) -> None:
    """Under "none" the report does not say so; another exponent than 1 is named."""
    prompt = Prompt(llava, [SQUARE])
    methods = [Merge("random"), Halves(), FastV(layer=2, keep=0.25)]
    with lftr.reduce(prompt.model, methods, tokens=12, weights=weights) as reduction:
        prompt.generate(1)
    report, text = reduction.report, str(reduction.report)
    exponent = {"none": 0.0, "size": 1.0}.get(weights, weights)
    assert report.weights == json.loads(json.dumps(report.to_dict()))["weights"] == exponent
    masses = [layer.stands_for for layer in report.layers]
    assert [layer.tokens for layer in report.layers[:3]] == [12, 6, 3]
    torch.testing.assert_close(torch.tensor(masses[:2]), torch.full((2,), 36.0))
    assert 3 <= masses[2] < 36  # what FastV drops takes its tokens along
    assert masses[2:] == masses[2:3] * len(masses[2:])
    if weights == "none":
        assert "standing for" not in text
        return
    said = " (weights=0.5)" * (weights == 0.5)
    assert f"-> 12, standing for 36 tokens{said}\n" in text
    assert f"layer 0: 12, standing for 36 tokens{said}; layer 1: 6, standing for 36 t" in text
    assert f"3, standing for {masses[2]:.0f} tokens{said}\n" in text


def test_a_count_above_the_item(llava: ZooEntry) -> None:
    prompt = Prompt(llava)
    with reduced(prompt.model, keep=100) as run:
        prompt.generate(1)
    assert run.report.kept == run.report.tokens == 108
    assert "tokens=100 is more than an image of 36 tokens has: all stay" in run.report.notes


def test_stand_ins_are_told(entry: ZooEntry) -> None:
    prompt = Prompt(entry, [SQUARE])
    with lftr.reduce(prompt.model, "trim", keep=0.4) as reduction:
        prompt.generate(1)
    assert any("the method prefers" in note for note in reduction.report.notes)


def test_text_alone(entry: ZooEntry) -> None:
    """A call without images reports none, and the next with images reports its own."""
    prompt, words = Prompt(entry), Prompt(entry, [PLAIN])
    with reduced(prompt.model) as run:
        prompt.generate(1)
        words.generate(1)
        assert run.report.items == []
        prompt.generate(1)
        assert run.report.kept > 0


def test_a_text_after_an_image_has_no_layers_of_the_image(llava: ZooEntry) -> None:
    """What a call did inside the language model is not reported of the next one."""
    prompt, text = Prompt(llava, [WIDE]), Prompt(llava, [PLAIN])
    with lftr.reduce(prompt.model, "fastv") as reduction:
        prompt.forward()
        assert reduction.report.layers
        assert reduction.report.survivors
        text.forward()
        report = reduction.report
        assert report.items == report.layers == []
        assert report.survivors == {}
        assert report.cache_bytes == report.full_cache_bytes == 0
        assert report.to_dict()["flops"] == {}


def test_decoding_does_not_change_the_report(entry: ZooEntry) -> None:
    prompt = Prompt(entry, [SQUARE])
    with reduced(prompt.model) as run:
        output = cached(prompt.model, prompt.inputs())
        before = run.report.to_dict()
        token = output.logits[:, -1].argmax(dim=-1, keepdim=True)
        prompt.model(input_ids=token, past_key_values=output.past_key_values)
    after = run.report.to_dict()
    times = {"encode_ms", "method_ms", "host_ms"}
    assert {k: v for k, v in before.items() if k not in times} == {
        k: v for k, v in after.items() if k not in times
    }


def test_as_pickle(llava: ZooEntry) -> None:
    prompt = Prompt(llava)
    with reduced(prompt.model) as run:
        prompt.generate(1)
    again = pickle.loads(pickle.dumps(run.report))
    assert again.to_dict() == run.report.to_dict()
    assert again.encode_ms > 0
    assert str(again) == str(run.report)


def test_a_budget_is_shared(entry: ZooEntry) -> None:
    prompt = Prompt(entry)
    with reduced(prompt.model, keep=lftr.Budget(total=15)) as run:
        prompt.generate(1)
    for row in (0, 2):
        items = [item for item in run.report.items if item.row == row]
        assert sum(item.kept for item in items) == min(15, sum(item.tokens for item in items))
