"""Every layer method in models: what it said is what the layers worked on, row by row."""

from __future__ import annotations

import functools

import pytest
import torch
from hosts.inside.oracle import Recorder
from hosts.inside.support import assert_true, logits_of
from hosts.support import FAMILIES, SQUARE, WIDE, Prompt, assert_close

import lftr
from lftr.methods.inside.schedules import Stages
from lftr.methods.operations.exit_gates import Gates, MadeFor

from .views import inside

# plain, multi-axis positions, text between the tokens of an image and layers of both kinds, masks
# that see both ways
FEW = [FAMILIES[name] for name in ("llava", "qwen2_5_vl", "aya_vision", "gemma3")]
families = pytest.mark.parametrize("family", FEW, ids=str)
each = pytest.mark.parametrize("name", inside())


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)
    with torch.no_grad():
        yield


def fitted(name, model):
    """Return the method of that name; one that is trained, with gates that exit before layer 2."""
    if name != "dyvte":
        return lftr.get_method(name)
    gates = Gates(MadeFor.of(model.config), width=2)
    gates.gates[1][2].bias.copy_(torch.tensor([0.0, 1.0]))
    return lftr.get_method(name, gates=gates)


def refused(name, prompt):
    """Whether a method cannot be hosted: text cannot read frozen tokens out of a window."""
    kinds = getattr(prompt.model.config.get_text_config(), "layer_types", None) or ["full"]
    return name == "freeze" and "sliding_attention" in kinds[1:2]


@families
@each
def test_truth(family, name):
    prompt = Prompt(family, [WIDE])
    recorder = Recorder(fitted(name, prompt.model))
    with lftr.reduce(prompt.model, recorder) as reduction:
        if refused(name, prompt):
            with pytest.raises(lftr.LftrError, match="freeze others"):
                prompt.generate()
            return
        output = prompt.generate()
    assert_true(prompt, recorder, output)
    layers = reduction.report.layers
    rests = [layer.state for layer in layers] != ["active"] * len(layers)
    assert rests or layers[-1].tokens < reduction.report.tokens


@families
@pytest.mark.parametrize(
    "wrap", [functools.partial(lftr.methods.Coordinates, share=0.2), lftr.methods.MergeInside]
)
@pytest.mark.parametrize("name", ["sparsevlm", "pyramiddrop"])
def test_truth_with_a_wrapper(family, name, wrap):
    prompt = Prompt(family, [WIDE])
    inner = lftr.get_method(name, schedule=Stages(layers=(1, 2), keep=(0.6, 0.3)))
    recorder = Recorder(wrap(inner))
    with lftr.reduce(prompt.model, recorder):
        output = prompt.generate()
    assert_true(prompt, recorder, output)


@families
@each
def test_a_batch_is_its_rows(family, name):
    prompt = Prompt(family, [WIDE, SQUARE])
    if refused(name, prompt):
        pytest.skip("cannot be hosted, see test_truth")
    method = fitted(name, prompt.model)
    with lftr.reduce(prompt.model, method):
        batch, right = prompt.generate(side="left"), prompt.forward("right").logits
        ends = prompt.inputs("right")["attention_mask"].sum(dim=1) - 1
        for row in range(2):
            alone = logits_of(prompt.alone(row).generate(), 0)
            assert_close(family, logits_of(batch, row), alone)
            assert_close(family, right[row, ends[row]], alone[0])


def test_rotary_tables_are_those_of_the_rows():
    prompt = Prompt(FAMILIES["llava"], [WIDE])
    schedule = Stages(layers=(1, 2), keep=(0.6, 0.3))
    recorder = Recorder(lftr.get_method("sparsevlm-plus", schedule=schedule))
    with lftr.reduce(prompt.model, recorder):
        prompt.forward()
    first, *_, last = recorder.views
    assert first.layer == 0
    assert len(last.states) < len(first.states)
    cosines, sines = first.rotary
    assert cosines.shape == sines.shape == (len(first.states), cosines.shape[1])
    torch.testing.assert_close(cosines.square() + sines.square(), torch.ones_like(cosines))
    torch.testing.assert_close(cosines[0], torch.ones_like(cosines[0]))  # position 0
    assert not cosines[1:].allclose(cosines[:-1])
    # text keeps its place when what was before it goes
    assert torch.equal(last.rotary[0][last.text], cosines[first.text])


@families
def test_what_is_remembered_is_of_the_same_tokens(family):
    """Another method drops tokens between the layers, in a batch with padding."""
    prompt = Prompt(family, [WIDE, SQUARE])
    recorder = Recorder(lftr.get_method("v2drop", schedule=Stages(layers=(1, 2), keep=(0.6, 0.3))))
    other = lftr.get_method("greedyprune", schedule=Stages(layers=(1, 2), keep=(0.8, 0.5)))
    with lftr.reduce(prompt.model, [other, recorder]):
        prompt.forward()
    assert len(recorder.views) == 6
    for later in recorder.views[2:]:
        states = later.recall(f"states of layer {later.layer - 1}")
        (before,) = (
            view
            for view in recorder.views
            if view.memory is later.memory and view.layer == later.layer - 1
        )
        columns = before.columns.tolist()
        rows = [columns.index(column) for column in later.columns[later.visual].tolist()]
        assert set(rows) < set(before.visual.tolist())
        assert states.equal(before.states[rows])


def test_methods_are_asked_in_the_prefill_alone():
    prompt = Prompt(FAMILIES["llava"], [SQUARE])
    recorder = Recorder(lftr.get_method("pyramiddrop"))
    with lftr.reduce(prompt.model, recorder):
        prompt.generate()
    plan = recorder.schedule.counts(len(recorder.views[0].visual), 3)
    assert [choice.count for _, _, choice in recorder.said] == plan[1:]


def test_notes_of_a_method_inside_are_in_the_report():
    prompt = Prompt(FAMILIES["llava"], [WIDE])
    twice = lftr.methods.MergeInside(lftr.methods.MergeInside("fastv"))
    with lftr.reduce(prompt.model, twice) as reduction:
        prompt.forward()
    assert any("merging its choice adds nothing" in note for note in reduction.report.notes)
