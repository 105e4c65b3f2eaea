"""Under autocast: the model computes in half precision, decisions do not."""

from __future__ import annotations

import pytest
import torch

import lftr
from lftr.values.errors import LftrError

from .support import FAMILIES, Prompt, ZooEntry, reduced


@pytest.mark.parametrize("name", lftr.list_methods())
def test_every_method(llava: ZooEntry, name: str) -> None:
    prompt = Prompt(llava)
    try:
        reduction = lftr.reduce(prompt.model, name, keep=0.8)
    except LftrError:
        pytest.skip("needs more than a LLaVA alone can tell")
    with reduction, torch.autocast("cpu", dtype=torch.bfloat16):
        prompt.forward()
        prompt.generate(2)
    assert reduction.report.average < reduction.report.tokens


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "internvl"])
def test_a_decision_is_what_it_is_without(name: str) -> None:
    """On the same evidence, a method chooses the same tokens: its products are not cast."""
    prompt = Prompt(FAMILIES[name])
    with reduced(prompt.model, "divprune", 0.3) as run, torch.autocast("cpu", dtype=torch.bfloat16):
        prompt.forward()
    items = run.report.items
    counts = [item.kept for item in items]
    again = run.method.inner.select_all(run.method.tokens, counts)
    assert [item.positions for item in items] == [tuple(one.index.tolist()) for one in again]


def test_merging_inside_the_encoder(llava: ZooEntry) -> None:
    prompt = Prompt(llava)
    options = {"encoder": lftr.EncoderToMe(r=4)}
    autocast = torch.autocast("cpu", dtype=torch.bfloat16)
    with reduced(prompt.model, "lftr", 0.4, **options) as run, autocast:
        prompt.forward()
    assert run.report.kept < run.report.tokens
