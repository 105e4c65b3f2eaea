"""Every method on every family: exactly K tokens, where the method put them, and nothing else."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

import lftr
from lftr.methods import Lftr
from lftr.methods.base import ImageMethod
from lftr.values.budget import resolve
from lftr.values.errors import MissingEvidenceError, UnsupportedModelError

from .support import FAMILIES, ROWS, Prompt, ZooEntry, assert_close, reduced

KEEP = 0.4
RARE = {"cls_attention", "frame_features", "visual_projected", "text_embeds", "text_products"}
ATTENTION = {"attention_received", "attention_received_shallow", "encoder_features"}
METHODS = [
    name
    for name in lftr.list_methods("before")
    if not isinstance(lftr.get_method(name), ImageMethod)
]
IMAGE_METHODS = sorted(set(lftr.list_methods("before")) - set(METHODS))


@pytest.mark.parametrize("method", METHODS)
def test_method(entry: ZooEntry, method: str) -> None:
    prompt = Prompt(entry)
    try:
        with reduced(prompt.model, method, KEEP) as run:
            logits = prompt.generate(1).logits[0]
            again = prompt.generate(1).logits[0]
            with reduced(prompt.model, method, KEEP, weights="none") as unweighted:
                short = unweighted.reduction.prepare(**prompt.inputs())
    except MissingEvidenceError as missing:
        told = RARE | ATTENTION if entry.traits.reads != "attention" else RARE
        if entry.name == "llava" or not told & set(str(missing).replace(",", " ").split()):
            raise
        pytest.skip(str(missing))
    assert torch.equal(logits, again)
    for row in range(len(ROWS)):
        choices = run.choices(row)
        assert sum(len(c.selection.index) for c in choices) == sum(
            resolve(KEEP, c.size) for c in choices
        )
        for choice in choices:
            assert int(choice.anchors.sum()) == choice.selection.count
        assert_close(entry, logits[row], prompt.truth(row, choices)[0], slack=2)
    assert [item.positions for item in run.report.items] == [
        tuple(chosen.index.tolist()) for chosen in run.method.selections
    ]
    words = prompt.inputs()["input_ids"]
    for before, after in zip(words, short["input_ids"], strict=True):
        kept = after[~prompt.visual(after) & (after != 0)]
        assert torch.equal(kept, before[~prompt.visual(before) & (before != 0)])


@pytest.mark.skipif("molmo2" not in FAMILIES, reason="transformers has it since 5.21")
def test_weights_that_do_not_sum_to_one() -> None:
    """They are of the tokens as the language model receives them, with what the model adds."""
    prompt = Prompt(FAMILIES["molmo2"], [ROWS[0]])
    with reduced(prompt.model, "prumerge", KEEP) as run:
        logits = prompt.generate(1).logits[0]
    choices = run.choices()
    sums = [choice.selection.apply(torch.ones(choice.size)) for choice in choices]
    assert (torch.cat(sums) - 1).abs().max() > 0.1
    assert_close(prompt.entry, logits[0], prompt.truth(0, choices)[0], slack=2)


@pytest.mark.parametrize("name", ["llava", "llava_next", "internvl"])
@pytest.mark.parametrize("relevance", ["frame", "text", "both"])
@pytest.mark.parametrize("descriptor", ["mean", "cls", "cls-attention"])
def test_lftr_on_tiles(name: str, relevance: str, descriptor: str) -> None:
    """Tiles with a descriptor each, packed into one, or of another width: an answer or an error."""
    prompt = Prompt(FAMILIES[name])
    method = Lftr(relevance=relevance, descriptor=descriptor)
    refused = name == "internvl" and descriptor == "cls" and relevance != "text"
    error = pytest.raises(MissingEvidenceError, match="frame_features of the encoder features' w")
    with reduced(prompt.model, method, KEEP) as run, error if refused else nullcontext():
        prompt.generate(1)
    if not refused:
        assert all(item.kept == resolve(KEEP, item.tokens) for item in run.report.items)


@pytest.mark.parametrize("method", METHODS)
def test_half_precision(llava: ZooEntry, method: str) -> None:
    """Exactly K in bfloat16 too."""
    prompt = Prompt(llava, model=llava.build().bfloat16())
    inputs = prompt.inputs()
    inputs["pixel_values"] = inputs["pixel_values"].bfloat16()
    with reduced(prompt.model, method, 10) as run:
        output = prompt.model.generate(**inputs, max_new_tokens=2)
    assert output.shape[1] == inputs["input_ids"].shape[1] + 2
    assert [item.kept for item in run.report.items] == [10] * 3


@pytest.mark.parametrize("method", IMAGE_METHODS)
def test_image_method(entry: ZooEntry, method: str) -> None:
    """A method that encodes the image anew says so where an encoder takes one size alone."""
    prompt = Prompt(entry)
    try:
        with lftr.reduce(prompt.model, method, keep=KEEP) as reduction:
            output = prompt.generate(2)
    except UnsupportedModelError as error:
        if "pool" not in str(error):
            raise
        pytest.skip(str(error))
    for item in reduction.report.items:
        assert item.kept == resolve(KEEP, item.tokens)
    assert torch.isfinite(output.logits[0]).all()
    assert reduction.report.received < reduction.report.prompt


def test_a_batch_is_decided_item_by_item(entry: ZooEntry) -> None:
    """Every method decides about an image as if it were alone."""
    prompt = Prompt(entry)
    for method in ("divprune", "dart", "tome", "lftr"):
        with reduced(prompt.model, method, KEEP) as run:
            prompt.generate(1)
            together = [run.choices(row) for row in range(len(ROWS))]
            for row in (0, 2):
                prompt.alone(row).generate(1)
                for left, right in zip(run.choices(), together[row], strict=True):
                    assert torch.equal(left.selection.index, right.selection.index), method
