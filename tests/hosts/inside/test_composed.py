"""Methods before the language model and inside it, other kernels, labels, Q-Former models."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from zoo.base import VOCAB

import lftr
from lftr.methods.inside.schedules import Exit, Step

from ..support import (
    FAMILIES,
    SQUARE,
    WIDE,
    Image,
    Prompt,
    Recording,
    ZooEntry,
    assert_close,
)
from .oracle import Recorder, Truth, Turn
from .support import MASKED, NEW, Own, Planned, Previous, first_layer, methods_for, truth_of


@pytest.fixture(params=MASKED, ids=str, scope="session")
def family(request: pytest.FixtureRequest) -> ZooEntry:
    value: ZooEntry = request.param
    return value


@pytest.mark.parametrize("order", ["before first", "inside first"])
@pytest.mark.parametrize("kind", ["previous", "merging", "exit"])
def test_both_ways(family: ZooEntry, kind: str, order: str) -> None:
    """The plain language model on gathered embeddings, with the dropped ones hidden from it."""
    prompt = Prompt(family, [WIDE])
    recorder, before = Recorder(methods_for(family)[kind]), Recording("random")
    both = [before, recorder] if order == "before first" else [recorder, before]
    with lftr.reduce(prompt.model, both, keep=0.6) as reduction:
        output = prompt.generate()
        items = reduction.report.items
    chosen = [
        _choice(item.tokens, choice) for item, choice in zip(items, before.selections, strict=True)
    ]
    inputs = prompt.inputs()
    visual = prompt.visual(inputs["input_ids"][0])
    keep = ~visual
    keep[visual] = torch.cat([choice.anchors for choice in chosen])
    columns = visual[keep].nonzero().squeeze(1)
    new = output.sequences[0, inputs["input_ids"].shape[1] :].tolist()
    truth = Truth(prompt.model, inputs, [Turn(columns, recorder.said)])
    assert recorder.said
    assert reduction.report.kept == len(columns) == reduction.report.layers[0].tokens
    with truth.hiding(int(keep.sum()) + NEW - 1):
        expected = prompt.truth(0, chosen, new[:-1])
    assert_close(family, torch.stack([step[0] for step in output.logits]), expected)


def test_reports_compare_with_the_whole_prompt(family: ZooEntry) -> None:
    """What two methods save together is counted from the prompt that neither has shortened."""
    prompt = Prompt(family, [WIDE, SQUARE])
    inside = methods_for(family)["previous"]
    with lftr.reduce(prompt.model, inside) as reduction:
        prompt.generate(new=1)
        alone = reduction.report
        whole = alone.full_cache_bytes
        counted = _counted(alone)
    with lftr.reduce(prompt.model, ["random", inside], keep=0.5) as reduction:
        prompt.generate(new=1)
        both = reduction.report
    assert both.kept < both.tokens == alone.tokens
    assert both.full_cache_bytes == whole
    assert both.cache_bytes <= alone.cache_bytes
    assert _counted(both) == counted
    assert f"{both.tokens} -> {both.average:.1f} visual tokens per layer" in str(both)


def _counted(report: Any) -> int | None:
    """The operations of the whole prompt, for decoders that the formulas cover."""
    try:
        return int(report.flops(full=True))
    except lftr.UnsupportedModelError:
        return None


def _choice(size: int, selection: lftr.Selection) -> Any:
    from ..support import Choice

    return Choice(size, selection)


def test_two_inside(family: ZooEntry) -> None:
    """The second one chooses among what the first left, also before the same layer."""
    first = first_layer(family)
    recorders = [Recorder(Previous(Step(first, 0.6))), Recorder(Own(Step(first, 0.2)))]
    prompt = Prompt(family, [WIDE])
    with lftr.reduce(prompt.model, recorders):
        output = prompt.generate()
    assert [[said[1] for said in recorder.said] for recorder in recorders] == [
        [total := recorders[0].said[0][1]],
        [recorders[0].said[0][2].index.numel()],
    ]
    assert recorders[1].said[0][2].count < recorders[0].said[0][2].count < total
    new = output.sequences[0, -NEW:].tolist()
    expected = truth_of(prompt, recorders).logits(new[:-1])
    assert_close(family, torch.stack([step[0] for step in output.logits]), expected)


@pytest.mark.parametrize("kind", ["previous", "own"])
def test_eager(family: ZooEntry, kind: str) -> None:
    prompt = Prompt(family, [WIDE, SQUARE], model=family.model("eager"))
    sdpa = Prompt(family, [WIDE, SQUARE])
    outputs = []
    for one in (prompt, sdpa):
        with lftr.reduce(one.model, methods_for(family)[kind]):
            outputs.append(one.generate())
    for row in range(2):
        found, expected = (torch.stack([step[row] for step in o.logits]) for o in outputs)
        assert_close(family, found, expected, slack=3)


def test_labels(family: ZooEntry) -> None:
    """Logits have the prompt's own shape, and the loss is that of the truth."""
    prompt = Prompt(family, [WIDE])
    recorder = Recorder(methods_for(family)["previous"])
    inputs = prompt.inputs()
    visual = prompt.visual(inputs["input_ids"])
    after = torch.nn.functional.pad(visual, (1, 0))[:, :-1]  # predicted by a token that may be gone
    marks = inputs["input_ids"] >= VOCAB  # Molmo 2's, which no head predicts
    labels = inputs["input_ids"].masked_fill(visual | after | marks, -100)
    inputs["labels"] = labels
    with lftr.reduce(prompt.model, recorder):
        output = prompt.model(**inputs)
    truth = truth_of(prompt, [recorder])
    with truth.hiding(labels.shape[1]):
        expected = prompt.model(**inputs)
    assert output.logits.shape == expected.logits.shape
    text = labels[0] != -100
    assert_close(family, output.logits[0, text], expected.logits[0, text], slack=3)
    if output.loss is not None:
        assert abs(float(output.loss - expected.loss)) < 1e-4


def test_gradients_reach_the_image(family: ZooEntry) -> None:
    prompt = Prompt(family, [WIDE])
    inputs = prompt.inputs()
    pixels = inputs[family.pixels] = inputs[family.pixels].clone().requires_grad_()
    with torch.enable_grad(), lftr.reduce(prompt.model, methods_for(family)["merging"]):
        answer = prompt.model(**inputs).logits[0, -1].sum()
        assert answer.requires_grad != family.traits.codes  # a code has no gradient
        if family.traits.codes:
            return
        answer.backward()
    assert bool(pixels.grad.abs().sum() > 0)


@pytest.mark.parametrize("name", ["blip_2", "instructblip"])
@pytest.mark.parametrize(
    "method", [Previous(Step(1, 3)), Own(Step(1, 3)), Planned(Exit(1))], ids=repr
)
def test_behind_a_q_former(name: str, method: lftr.LayerMethod) -> None:
    entry = FAMILIES[name]
    rows = entry.rows([[Image(), 3], [Image(seed=1), 5]])
    prompt, recorder = Prompt(entry, rows[:1]), Recorder(method)
    with lftr.reduce(prompt.model, recorder) as reduction:
        output = prompt.generate()
    new = output.sequences[0, -NEW:].tolist()
    ids = prompt.inputs()["input_ids"][0]
    columns = prompt.visual(ids).nonzero().squeeze(1)
    truth = Truth(prompt.model, prompt.inputs(), [Turn(columns, recorder.said)])
    with truth.hiding(len(ids) + NEW - 1):
        longer = torch.cat([ids, torch.tensor(new[:-1])])[None]
        call = prompt.inputs() | {"input_ids": longer, "attention_mask": torch.ones_like(longer)}
        expected = prompt.model.forward(**call).logits[0, len(ids) - 1 :]
    assert recorder.said
    assert_close(entry, torch.stack([step[0] for step in output.logits]), expected)
    assert reduction.report.layers[1].tokens < reduction.report.layers[0].tokens
    with lftr.reduce(prompt.model, method):
        both = Prompt(entry, rows).generate().sequences[:, -NEW:].tolist()
        alone = [Prompt(entry, [row]).generate().sequences[0, -NEW:].tolist() for row in rows]
        beams = Prompt(entry, rows).generate(num_beams=2).sequences[:, -NEW:].tolist()
        single = [
            Prompt(entry, [r]).generate(num_beams=2).sequences[0, -NEW:].tolist() for r in rows
        ]
    assert both == alone
    assert beams == single
