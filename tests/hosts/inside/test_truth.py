"""Every family: what the layers work on is what the plain model sees with the rest hidden."""

from __future__ import annotations

import pytest
import torch

import lftr

from ..support import HOSTED, WIDE, Prompt, ZooEntry, distance
from .oracle import Recorder
from .support import EVERY_MASKED, assert_true, first_layer, methods_for, skips_for, truth_of

kinds = pytest.mark.parametrize("kind", list(methods_for(HOSTED[0])))


@pytest.fixture(params=EVERY_MASKED, ids=str, scope="session")
def family(request: pytest.FixtureRequest) -> ZooEntry:
    value: ZooEntry = request.param
    return value


@kinds
def test_prefill_and_every_step(family: ZooEntry, kind: str) -> None:
    prompt = Prompt(family, [WIDE])
    recorder = Recorder(methods_for(family)[kind])
    with lftr.reduce(prompt.model, recorder) as reduction:
        output = prompt.generate()
    assert recorder.said
    assert_true(prompt, recorder, output)
    assert [layer.tokens for layer in reduction.report.layers][-1] < reduction.report.tokens


@pytest.mark.parametrize("kind", ["frozen", "bypassed"])
def test_tokens_at_rest(family: ZooEntry, kind: str) -> None:
    prompt = Prompt(family, [WIDE])
    recorder = Recorder(skips_for(family)[kind])
    if kind == "frozen" and sliding(family):
        with (
            lftr.reduce(prompt.model, recorder),
            pytest.raises(lftr.LftrError, match=r"sliding|sparse"),
        ):
            prompt.generate()
        return
    with lftr.reduce(prompt.model, recorder):
        output = prompt.generate()
    assert_true(prompt, recorder, output)


def sliding(entry: ZooEntry) -> bool:
    """Whether the first layer that could rest attends in a window."""
    kinds = getattr(entry.model().config.get_text_config(), "layer_types", None) or []
    return any("full" not in one for one in kinds[first_layer(entry) : first_layer(entry) + 1])


def test_the_truth_tells_choices_apart(family: ZooEntry) -> None:
    """What is hidden, and where, shows in the truth by far more than the tolerance."""
    prompt = Prompt(family, [WIDE])
    recorder = Recorder(methods_for(family)["previous"])
    with lftr.reduce(prompt.model, recorder):
        prompt.generate(new=1)
    truth = truth_of(prompt, [recorder]).logits()
    layer, size, choice = recorder.said[-1]
    other = [i for i in range(size) if i not in choice.index.tolist()][: choice.count]
    others = Recorder(recorder.inner)
    others.said = [*recorder.said[:-1], (layer, size, lftr.Selection(torch.tensor(other)))]
    nothing = Recorder(recorder.inner)
    for wrong in (others, nothing):
        assert distance(truth, truth_of(prompt, [wrong]).logits()) > 1e-3
