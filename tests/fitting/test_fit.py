"""Fitting the parts of methods: on tiny models, and what a fit leaves and refuses."""

from __future__ import annotations

import copy
import dataclasses
import json

import pytest
import torch
from every import fittable, item
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from zoo import FAMILIES, VIDEOS, Image

import lftr
from lftr.lab.fitting.checkpoint import steps_of
from lftr.lab.fitting.fit import lesson_loss
from lftr.lab.fitting.lessons import Lesson, _continued, _prompts, visual_states
from lftr.lab.fitting.objective import answer_loss, relation_loss
from lftr.lab.fitting.trainee import Trainee
from lftr.methods.operations.fitted import Fitted, read_tensors
from lftr.methods.operations.learned_scores import VisualScores, soft_top

OPTIONS = {"keep": 0.4, "steps": 4, "max_new_tokens": 2, "width": 8}
each = pytest.mark.parametrize("name", fittable())


@pytest.fixture(scope="module")
def model():
    torch.set_num_threads(1)
    return FAMILIES["llava"].model()


@pytest.fixture(scope="module")
def data(model):
    rows = [[3, Image("wide"), 4], [2, Image("square", 2), 3]], [[5, Image("square", 3), 2]]
    entry = FAMILIES["llava"]
    return [dict(entry.inputs(model, entry.rows(list(some)), "left")) for some in rows]


def weights(method):
    return {name: x.clone() for name, x in method.fitted.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


@pytest.fixture(scope="module")
def lessons(model, data):
    """What the tiny model teaches, for parts that see text."""
    trainee = Trainee(lftr.get_method("two-expert").fits.needs)
    with lftr.reduce(model, trainee, keep="auto", weights="size"):
        return [Lesson.of(model, trainee, inputs, 2) for inputs in data]


def loss(model, part, lessons, relation=0.5):
    trainee = Trainee(type(part).needs)
    with torch.no_grad(), lftr.reduce(model, trainee, keep="auto", weights="size"):
        values = [
            lesson_loss(
                model, trainee, part, one, 0.3, 0.2, torch.Generator().manual_seed(0), relation
            )
            for one in lessons
        ]
    return float(sum(values))


@each
def test_fitting_lowers_the_loss(model, data, lessons, name):
    options = {**OPTIONS, "keep": 0.3, "learning_rate": 1e-2}
    before = lftr.fit(model, data, name, **{**options, "steps": 1, "learning_rate": 1e-6})
    after = lftr.fit(model, data, name, **{**options, "steps": 40})
    assert loss(model, after.fitted, lessons) < 0.97 * loss(model, before.fitted, lessons)


@each
def test_every_weight_of_a_part_is_fitted(model, data, name):
    options = {**OPTIONS, "keep": 0.3, "learning_rate": 1e-2}
    first = weights(lftr.fit(model, data, name, **{**options, "steps": 1, "learning_rate": 1e-6}))
    for weight, other in weights(lftr.fit(model, data, name, **options)).items():
        assert (other - first[weight]).abs().max() > 1e-4, weight


@each
def test_a_fit_depends_on_its_seed_alone(model, data, name):
    state = torch.random.get_rng_state()
    one = weights(lftr.fit(model, data, name, seed=1, **OPTIONS))
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(7)
    assert same(one, weights(lftr.fit(model, data, name, seed=1, **OPTIONS)))
    assert not same(one, weights(lftr.fit(model, data, name, seed=2, **OPTIONS)))


@each
def test_generators_of_accelerators_stay(model, data, monkeypatch, name):
    def seeded(*_):
        raise AssertionError("the generator of an accelerator was seeded")

    for module in (torch.cuda, torch.mps, torch.xpu):
        for function in {"manual_seed", "manual_seed_all"} & set(dir(module)):
            monkeypatch.setattr(module, function, seeded)
    lftr.fit(model, data[1:], name, **{**OPTIONS, "steps": 1})


@each
def test_the_model_stays_as_it_was(model, data, name):
    before = {n: x.clone() for n, x in model.state_dict().items()}
    asked = {n: p.requires_grad for n, p in model.named_parameters()}
    modes = [module.training for module in model.modules()]
    model.model.language_model.train()
    told = []
    lftr.fit(model, data, name, on_progress=lambda *one: told.append(one), **OPTIONS)
    assert [one[:2] for one in told if one[0] == "step"] == [("step", n) for n in (1, 2, 3, 4)]
    assert [one for one in told if one[0] == "answered"] == [("answered", 1, 2), ("answered", 2, 3)]
    assert model.model.language_model.training
    for module, mode in zip(model.modules(), modes, strict=True):
        module.training = mode
    assert all(torch.equal(x, before[n]) for n, x in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert {n: p.requires_grad for n, p in model.named_parameters()} == asked
    assert not lftr.reductions(model)


class Interrupted(Exception):
    pass


@each
def test_an_interrupted_fit_goes_on(model, data, tmp_path, monkeypatch, name):
    monkeypatch.setattr("lftr.lab.fitting.fit._EVERY", 2)
    options = {**OPTIONS, "steps": 7, "keep": [0.3, 0.5]}
    whole = weights(lftr.fit(model, data, name, **options))
    path, steps = tmp_path / "checkpoint", []

    def told(what, number, value):
        steps.extend([number] * (what == "step"))
        if what == "step" and steps == [1, 2, 3, 4, 5]:
            raise Interrupted

    with pytest.raises(Interrupted):
        lftr.fit(model, data, name, checkpoint=path, on_progress=told, **options)
    fitted = lftr.fit(model, data, name, checkpoint=path, on_progress=told, **options)
    assert steps == [1, 2, 3, 4, 5, 5, 6, 7]  # the fifth was not written yet
    assert same(whole, weights(fitted))
    assert same(whole, weights(lftr.fit(model, data, name, checkpoint=path, **options)))
    for change in ({"steps": 8}, {"seed": 1}, {"width": 4}, {"keep": 0.3}):
        with pytest.raises(lftr.LftrError, match="checkpoint = "):
            lftr.fit(model, data, name, checkpoint=path, **{**options, **change})
    for change in (data[:1], data[::-1]):
        with pytest.raises(lftr.LftrError, match="its data differ"):
            lftr.fit(model, change, name, checkpoint=path, **options)


def test_a_checkpoint_knows_its_data_and_model_to_the_bit(model, data, tmp_path):
    path, options = tmp_path / "checkpoint", {**OPTIONS, "steps": 1}
    lftr.fit(model, data, checkpoint=path, **options)
    pixels = data[0]["pixel_values"].clone()
    pixels[0, 0, 0, 0] = pixels[0, 0, 0, 0].nextafter(torch.tensor(torch.inf))
    with pytest.raises(lftr.LftrError, match="its data differ"):
        lftr.fit(model, [data[0] | {"pixel_values": pixels}, data[1]], checkpoint=path, **options)
    other = copy.deepcopy(model)
    weight = other.model.language_model.layers[0].mlp.up_proj.weight.data
    weight[0, 0] = weight[0, 0].nextafter(torch.tensor(torch.inf))
    with pytest.raises(lftr.LftrError, match="its model differ"):
        lftr.fit(other, data, checkpoint=path, **options)
    lftr.fit(model, data, checkpoint=path, **options)


CHANGED = {
    "no config": {"config": None},
    "no shape": {"shape": None},
    "no step": {"step": None},
    "no format": {"format": None},
    "config": {"config": "{"},
    "a list": {"config": "[3]"},
    "null": {"config": "null"},
    "deep": {"config": "[" * 100_000},
    "step": {"step": "x"},
    "before": {"step": "-2"},
    "after": {"step": "3"},
}


@pytest.mark.parametrize("kind", [*CHANGED, "weight", "moment", "moments", "nan"])
def test_what_is_no_checkpoint(model, data, tmp_path, kind):
    path, options = tmp_path / "checkpoint", {**OPTIONS, "steps": 2}
    lftr.fit(model, data[1:], checkpoint=path, **options)
    tensors, known = read_tensors("checkpoint", path)
    if kind == "weight":
        del tensors["weight.weight"]
    elif kind == "moment":
        del tensors["exp_avg.weight"]
    elif kind == "moments":
        tensors["exp_avg.weight"] = torch.ones(7)
    elif kind == "nan":
        tensors["exp_avg.weight"] *= torch.nan
    known = {k: x for k, x in (known | CHANGED.get(kind, {})).items() if x is not None}
    save_file(tensors, path, known)
    with pytest.raises(lftr.LftrError, match=r"checkpoint = .*a checkpoint of lftr\.fit"):
        lftr.fit(model, data[1:], checkpoint=path, **options)
    if kind in ("no step", "no format", "step", "before"):
        with pytest.raises(lftr.LftrError, match=r"checkpoint = .*a checkpoint of lftr\.fit"):
            steps_of(path)


@each
def test_what_is_saved_decides_the_same(tmp_path, name):
    method = lftr.get_method(name)
    tokens = [item(seed, (1, 4, 5)) for seed in range(5)]
    part = method.fits.fresh(tokens[0].as_batch(), width=8)
    for weight in part.parameters():
        weight.data = torch.randn(weight.shape)
    path = tmp_path / "part.safetensors"
    part.save(path)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    loaded = lftr.get_method(name, fitted=str(path))
    held = dataclasses.replace(method, fitted=part)
    assert same({n: x for n, x in part.state_dict().items()}, loaded.part.state_dict())
    for one in tokens:
        for keep in (1, 5, 19):
            assert loaded.select(one, keep).index.equal(held.select(one, keep).index)
    assert loaded.evidence == held.evidence == tuple((n,) for n in part.widths)
    preset = lftr.Preset(loaded, keep=0.5)
    preset.save(tmp_path / "preset.json")
    assert lftr.Preset.load(tmp_path / "preset.json").method == loaded


@each
@pytest.mark.parametrize(
    "kind", ["missing", "text", "metadata", "shape", "tensors", "nan", "other"]
)
def test_what_is_no_fitted_part(tmp_path, name, kind):
    path, cls = tmp_path / "part.safetensors", lftr.get_method(name).fits
    part = cls.fresh(item(0, (1, 4, 5)).as_batch(), width=8)
    tensors, known = part.state_dict(), part.known
    if kind == "text":
        path.write_text("weights")
    elif kind == "metadata":
        save_file(tensors, path)
    elif kind == "shape":
        save_file(tensors, path, known | {"shape": '[{"features": -1}, {"width": "x"}]'})
    elif kind == "tensors":
        save_file({"x": torch.ones(2)}, path, known)
    elif kind == "nan":
        save_file({n: x * torch.nan for n, x in tensors.items()}, path, known)
    elif kind == "other":
        for other in {lftr.get_method(k).fits for k in fittable()} - {cls}:
            other.fresh(item(0, (1, 4, 5)).as_batch(), width=8).save(path)
            with pytest.raises(lftr.LftrError, match=f"fitted = .*allowed: {cls.__name__}, as"):
                lftr.get_method(name, fitted=path)
    with pytest.raises(lftr.LftrError, match=r"fitted = .*allowed: "):
        lftr.get_method(name, fitted=path)


JSON = (
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-3, 9)
        | st.sampled_from([2**31, 2**62, 10**30])
        | st.floats()
        | st.sampled_from([*lftr.values.evidence.FIELDS, "width", "slots", ""]),
        lambda inside: (
            st.lists(inside, max_size=3) | st.dictionaries(st.text(max_size=3), inside, max_size=3)
        ),
        max_leaves=5,
    )
    | st.tuples(
        st.dictionaries(st.sampled_from([*lftr.values.evidence.FIELDS]), st.integers(-1, 2**40)),
        st.dictionaries(st.sampled_from(["width", "slots", "self"]), st.integers(-1, 2**40)),
    )
).map(json.dumps)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(Fitted.kinds)), JSON | st.text(max_size=9))
def test_headers_of_any_content_end_in_one_error(tmp_path_factory, kind, shape):
    path = tmp_path_factory.mktemp("fuzz") / "part"
    save_file({"x": torch.ones(2)}, path, {"format": f"lftr.fitted.{kind}", "shape": shape})
    with pytest.raises(lftr.LftrError, match=r"fitted = .*allowed: a file that lftr.fit wrote"):
        Fitted.load(path)


@each
@pytest.mark.parametrize(
    "change",
    [
        lambda widths, options: [widths, options | {"width": 2**33}],
        lambda widths, options: [dict.fromkeys(widths, 2**33), options],
        lambda widths, options: [{"keys": 4}, options],
        lambda widths, options: [{}, options],
        lambda widths, options: [widths | {"keys": 4}, options],
        lambda widths, options: [widths | {"colours": 4}, options],
        lambda widths, options: [dict(reversed(widths.items())) | {"features": 0}, options],
        lambda widths, options: [widths, options | {"width": True}],
        lambda widths, options: [widths, options | {"width": 8.0}],
        lambda widths, options: [widths, options | {"colour": 8}],
        lambda widths, options: [widths],
        lambda widths, options: [options, widths],
    ],
    ids=range(12),
)
def test_shapes_that_a_file_must_not_name(tmp_path, name, change):
    path = tmp_path / "part"
    part = lftr.get_method(name).fits.fresh(item(0, (1, 4, 5)).as_batch(), width=8)
    shape = json.dumps(change(part.widths, part.options))
    save_file(part.state_dict(), path, part.known | {"shape": shape})
    with pytest.raises(lftr.LftrError, match=r"allowed: a file that lftr.fit wrote"):
        lftr.get_method(name, fitted=path)


@each
def test_loading_draws_nothing(tmp_path, name):
    lftr.get_method(name).fits.fresh(item(0, (1, 4, 5)).as_batch(), width=8).save(tmp_path / "part")
    state = torch.random.get_rng_state()
    part = Fitted.load(tmp_path / "part")
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(x.device.type == "cpu" and not x.requires_grad for x in part.parameters())


@pytest.mark.parametrize("value", [3, torch.nn.Linear(2, 2), {"scorer": 1}])
def test_what_is_no_part_at_all(value):
    with pytest.raises(lftr.LftrError, match="fitted = "):
        lftr.get_method("scorer", fitted=value)


@each
def test_tokens_of_another_model_are_refused(name):
    method = lftr.get_method(name)
    part = method.fits.fresh(item(0, (1, 4, 5)).as_batch(), width=8)
    tokens = item(0, (1, 4, 5))
    wider = dataclasses.replace(tokens, encoder_features=torch.randn(20, 9))
    with pytest.raises(lftr.LftrError, match="encoder_features of 7 channels; these tokens have 9"):
        dataclasses.replace(method, fitted=part).select(wider, 5)
    bare = dataclasses.replace(tokens, encoder_features=None)
    with pytest.raises(lftr.MissingEvidenceError):
        dataclasses.replace(method, fitted=part).select(bare, 5)


def test_a_fitted_method_reduces(model, data, tmp_path):
    fitted = lftr.fit(model, data, "two-expert", **OPTIONS)
    fitted.fitted.save(tmp_path / "part")
    with torch.no_grad(), lftr.reduce(model, fitted, keep=0.4) as reduction:
        plain = model(**data[0]).logits
        assert reduction.report.kept < reduction.report.tokens
    loaded = lftr.get_method("two-expert", fitted=tmp_path / "part")
    with torch.no_grad(), lftr.reduce(model, loaded, keep=0.4):
        assert torch.equal(model(**data[0]).logits, plain)


def test_labels_take_the_place_of_the_models_answers(model, data, lessons):
    """With the model's own answers as labels, the lesson is the same."""
    trainee = Trainee(lftr.get_method("two-expert").fits.needs)
    own = lessons[0]
    ids = own.inputs["input_ids"]
    labels = torch.full_like(ids, -100)
    some = labels[:, -own.answered.shape[1] :]
    some[own.answered] = ids[:, -own.answered.shape[1] :][own.answered]
    with lftr.reduce(model, trainee, keep="auto", weights="size"):
        taught = Lesson.of(model, trainee, {**own.inputs, "labels": labels}, 2)
    assert torch.equal(taught.answered, own.answered)
    torch.testing.assert_close(taught.logits[own.answered], own.logits[own.answered])
    for one, other in zip(taught.tokens, own.tokens, strict=True):
        assert torch.equal(one.text_token_embeds, other.text_token_embeds)  # no answer in them
    for one, other in zip(taught.states, own.states, strict=True):
        torch.testing.assert_close(one, other)


def shorter_answer(lesson):
    """Return a batch of two prompts: an answer of two tokens, and the first of another's alone."""
    ids, mask = lesson.inputs["input_ids"], lesson.inputs["attention_mask"]
    rows = torch.tensor([[*range(ids.shape[1])], [0, *range(ids.shape[1] - 1)]])
    ids, mask = ids.gather(1, rows), mask.gather(1, rows)
    mask[1, 0] = 0
    ids[1, 0] = 0
    labels = torch.full_like(ids, -100)
    labels[0, -2:], labels[1, -1:] = ids[0, -2:], ids[1, -1:]
    return {**lesson.inputs, "input_ids": ids, "attention_mask": mask, "labels": labels}


@pytest.mark.parametrize("extra", [None, "position_ids"])
def test_answers_of_different_lengths_leave_each_prompt_whole(model, lessons, extra):
    trainee = Trainee(lftr.get_method("two-expert").fits.needs)
    own = lessons[0]
    inputs = shorter_answer(own)
    if extra is not None:
        inputs[extra] = (inputs["attention_mask"].cumsum(1) - 1).clamp_min(0)
    with lftr.reduce(model, trainee, keep="auto", weights="size"):
        taught = Lesson.of(model, trainee, inputs, 2)
    assert taught.answered.tolist() == [[True, True], [False, True]]
    for one, other in zip(taught.tokens, own.tokens, strict=True):
        assert torch.equal(one.text_token_embeds, other.text_token_embeds)  # the whole question
    for one, other in zip(taught.states, own.states, strict=True):
        torch.testing.assert_close(one, other)
    torch.testing.assert_close(taught.logits[0], own.logits[0])
    torch.testing.assert_close(taught.logits[1, 1], own.logits[1, 0])


def test_what_cannot_be_padded_is_refused(model, data, lessons):
    inputs = shorter_answer(lessons[0])
    for extra in (torch.zeros_like(inputs["labels"]), torch.zeros(*inputs["labels"].shape, 3)):
        with pytest.raises(lftr.LftrError, match="colour, for which no padding is known"):
            lftr.fit(model, [inputs | {"colour": extra}], **OPTIONS)


def test_prompts_are_padded_on_the_left_again():
    ids = torch.tensor([[3, 4, 5, 6], [0, 7, 8, 9]])
    kinds = torch.tensor([[1, 0, 0, 0], [0, 1, 0, 0]])
    inputs = {"input_ids": ids, "mm_token_type_ids": kinds, "position_ids": ids.expand(3, 2, 4)}
    prompts = _prompts(inputs | {"image_sizes": ids[:, :2]}, torch.tensor([2, 3]))
    assert prompts["input_ids"].tolist() == [[5, 3, 4], [0, 7, 8]]  # 5 begins the answer
    assert prompts["mm_token_type_ids"].tolist() == [[0, 1, 0], [0, 1, 0]]
    assert prompts["position_ids"].tolist() == [[[0, 3, 4], [0, 7, 8]]] * 3
    assert torch.equal(prompts["image_sizes"], ids[:, :2])


def test_positions_go_on_in_answers():
    ids = torch.tensor([[0, 5, 6], [4, 5, 6]])
    flat = torch.tensor([[0, 0, 1], [0, 1, 2]])
    for positions in (flat, flat.expand(3, 2, 3)):
        longer = _continued({"input_ids": ids, "position_ids": positions}, ids[:, :2])
        wanted = torch.tensor([[0, 0, 1, 2, 3], [0, 1, 2, 3, 4]])
        assert torch.equal(longer["position_ids"], wanted.expand(*positions.shape[:-2], 2, 5))


def test_states_of_slots_are_those_of_their_columns(model, lessons):
    """With all tokens kept, they are the full model's; rows of two lengths, padded."""
    trainee = Trainee(lftr.get_method("two-expert").fits.needs)
    with torch.no_grad(), lftr.reduce(model, trainee, keep="auto", weights="size"):
        for lesson in lessons:
            trainee.tokens, trainee.choices = list(lesson.tokens), []
            choices = [lftr.Selection.everything(one.count) for one in lesson.tokens]
            last = model(**lesson.inputs, output_hidden_states=True).hidden_states[-1]
            for some, full in zip(visual_states(lesson, last, choices), lesson.states, strict=True):
                torch.testing.assert_close(some, full, rtol=1e-4, atol=1e-5)
            trainee.tokens = list(lesson.tokens)
            trainee.choices = [
                lftr.Selection(list(range(1, n, 3))) for n in (one.count for one in lesson.tokens)
            ]
            shorter = model(**lesson.inputs, output_hidden_states=True).hidden_states[-1]
            states = visual_states(lesson, shorter, trainee.choices)
            assert [len(one) for one in states] == [c.count for c in trainee.choices]


def test_objective():
    full = torch.tensor([[[1.0, 0.0], [3.0, 0.0]]])
    answered = torch.tensor([[True, False]])
    assert answer_loss(full, full, answered) == 0.0
    p = full[0, 0].softmax(0)
    wanted = (p * (p.log() - torch.tensor([0.5, 0.5]).log())).sum()
    torch.testing.assert_close(answer_loss(full * 0, full, answered), wanted)
    states = torch.randn(6, 4)
    turn, _ = torch.linalg.qr(torch.randn(4, 4))
    assert relation_loss(states @ turn * 3.0, states) == pytest.approx(0.0, abs=1e-5)
    assert relation_loss(torch.randn(6, 4), states) > 0.01
    off = torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0, 1e-9])
    changed = torch.cat([states[:5], -states[5:]])
    assert relation_loss(changed, states, off) < 1e-4 < relation_loss(changed, states)


@pytest.mark.parametrize("cost", [torch.ones(20), torch.arange(20) % 3 + 0.5], ids=["one", "many"])
@pytest.mark.parametrize("temperature", [1.0, 0.1, 0.01])
def test_gates_sum_to_the_budget(temperature, cost):
    scores = torch.randn(3, 20, dtype=torch.float64, requires_grad=True)
    gates = soft_top(scores, 7, temperature, cost)
    torch.testing.assert_close((gates * cost).sum(1), torch.full((3,), 7.0, dtype=torch.float64))
    assert torch.equal(soft_top(scores, 30, temperature, cost), torch.ones_like(scores))
    (grad,) = torch.autograd.grad((gates * torch.arange(20.0)).sum(), scores)
    moved = scores.detach().clone()
    moved[1, 4] += 1e-6
    slope = ((soft_top(moved, 7, temperature, cost) - gates)[1] * torch.arange(20.0)).sum() / 1e-6
    torch.testing.assert_close(grad[1, 4], slope, rtol=1e-2, atol=1e-3)


@each
def test_cold_decisions_are_those_without_a_gradient(name):
    tokens = item(0, (1, 4, 5)).as_batch()
    part = lftr.get_method(name).fits.fresh(tokens, width=8)
    for keep in (9, 10):  # at which a router divides no region in part
        cold = part.relax(tokens, keep, 1e-6, torch.Generator().manual_seed(0)).item(0)
        hard, there = part.decide(tokens, keep).item(0), cold.weight > 0.5
        features = tokens.features[0]
        torch.testing.assert_close(cold.apply(features)[there], hard.apply(features))
        torch.testing.assert_close(cold.weight[there], hard.weight)
        assert bool((cold.weight[~there] < 1e-3).all())


def test_a_fit_begins_with_the_rule():
    """The scorer without a fitted part is what fitting begins with."""
    for seed in range(5):
        tokens = item(seed, (1, 4, 5))
        fresh = VisualScores.fresh(tokens.as_batch(), width=8)
        begun = lftr.get_method("scorer", fitted=fresh).select(tokens, 6)
        assert begun.index.equal(lftr.get_method("scorer").select(tokens, 6).index)


@pytest.mark.parametrize("name", ["two-expert", "region-router"])
def test_the_score_by_text_does_not_run_away(name):
    """Steps of the optimiser in one direction leave it of the size of the signals."""
    draw = torch.Generator().manual_seed(0)
    tokens = lftr.VisualTokens(
        torch.randn(1, 64, 256, generator=draw),
        encoder_features=torch.randn(1, 64, 256, generator=draw),
        cls_attention=torch.rand(1, 2, 64, generator=draw),
        text_token_embeds=torch.randn(1, 9, 256, generator=draw),
    )
    part = lftr.get_method(name).fits.fresh(tokens)
    optimizer = torch.optim.AdamW(part.parameters(), lr=3e-3)
    wish = torch.randn(1, 64, generator=draw)
    for _ in range(10):
        optimizer.zero_grad()
        (part.scores(tokens) * wish).sum().backward()
        optimizer.step()
    by_text = part.scores(tokens) - VisualScores.scores(part, tokens)
    assert 0.01 < by_text.std() < 5.0


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"method": "divprune"}, "method = 'divprune'; allowed: one of dyvte, region-router"),
        ({"steps": 0}, "steps = 0"),
        ({"learning_rate": 0.0}, "learning_rate = 0.0"),
        ({"relation": -1.0}, "relation = -1.0"),
        ({"seed": -1}, "seed = -1"),
        ({"max_new_tokens": 0}, "max_new_tokens = 0"),
        ({"keep": []}, "keep = "),
        ({"keep": 1.5}, "1.5"),
        ({"colour": 3}, "colour"),
        ({"data": []}, "data = "),
        ({"data": {}}, "data = "),
    ],
    ids=str,
)
def test_options_of_fitting(model, data, options, named):
    options = {"data": data[:1], **OPTIONS, **options}
    with pytest.raises(lftr.LftrError, match=named):
        lftr.fit(model, options.pop("data"), **options)


def test_batches_that_teach_nothing(model, data):
    one = data[0]
    ids = one["input_ids"]
    right = one | {"attention_mask": torch.ones_like(ids).index_fill(1, torch.tensor([-1]), 0)}
    for change, named in [
        (right, "padded on the right"),
        (one | {"labels": torch.full_like(ids, -100)}, "an answer after each prompt"),
        ({"input_ids": torch.tensor([[1, 5, 6]])}, "inputs with an image"),
    ]:
        with pytest.raises(lftr.LftrError, match=named):
            lftr.fit(model, [change], **OPTIONS)
    assert not lftr.reductions(model)


def test_gates_are_fitted_by_the_same_door(model, data):
    alone = [data[1]]
    method = lftr.fit(model, alone, "dyvte", steps=3, max_new_tokens=2, width=2, draws=1)
    assert method.gates.width == 2
    with torch.no_grad(), lftr.reduce(model, method):
        model(**alone[0])


def test_gates_are_fitted_without_dropout(model):
    """The model in train mode, with dropout and in a wrapper, teaches as in eval mode."""
    options = {"method": "dyvte", "steps": 3, "max_new_tokens": 2, "width": 2}
    entry = FAMILIES["llava"]
    rows = [[[3, Image("wide"), 4]], [[5, Image("square", 3), 2]]]
    alone = [dict(entry.inputs(model, entry.rows(one), "left")) for one in rows]
    state = torch.random.get_rng_state()
    wanted = lftr.fit(model, alone, **options).gates.state_dict()
    assert torch.equal(torch.random.get_rng_state(), state)
    other = copy.deepcopy(model).train()
    for layer in other.model.language_model.layers:
        layer.self_attn.attention_dropout = 0.9
    parallel = type("DistributedDataParallel", (torch.nn.Module,), {})()
    parallel.module = other
    gates = lftr.fit(parallel, alone, **options).gates.state_dict()
    assert same(wanted, gates)
    assert all(module.training for module in other.modules())


@pytest.mark.parametrize(
    "options",
    [{"keep": 0.5}, {"relation": 0.5}, {"checkpoint": "x"}, {"slots": 3}, {"colour": 3}],
    ids=str,
)
def test_arguments_that_gates_do_not_take(model, data, options):
    (name,) = options
    with pytest.raises(lftr.LftrError, match=f"{name} = .*allowed: no such argument for the gates"):
        lftr.fit(model, data[1:], "dyvte", **options)


def test_parts_are_known_by_their_names():
    assert set(Fitted.kinds) >= {lftr.get_method(name).fits.__name__ for name in fittable()}


@pytest.mark.parametrize(
    "entry",
    [FAMILIES["llava_next"], FAMILIES["qwen2_5_vl"], FAMILIES["internvl"], VIDEOS["qwen2_5_vl"]],
    ids=str,
)
def test_separators_grids_tiles_and_clips(entry):
    """What is fitted on other kinds of items reduces them."""
    model = entry.model()
    rows = entry.rows([[3, Image("wide"), 4, Image("small", 1), 5], [2, Image("square", 2), 3]])
    inputs = dict(entry.inputs(model, rows, "left"))
    for name in ("two-expert", "visual-grouping", "region-router"):
        losses = []

        def told(what, number, value, losses=losses):
            losses.extend([value] * (what == "step"))

        method = lftr.fit(model, [inputs], name, on_progress=told, **{**OPTIONS, "steps": 2})
        assert len(losses) == 2
        with torch.no_grad(), lftr.reduce(model, method, keep=0.4) as reduction:
            model(**inputs)
            assert reduction.report.kept < reduction.report.tokens
