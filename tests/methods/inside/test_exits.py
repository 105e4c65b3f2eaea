"""Exits: gates as values, calibrated and trained on the bundled model."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlavaConfig

import lftr
from lftr import bundled, suites
from lftr.lab.exits import calibrate
from lftr.lab.exits.calibrate import exit_layers
from lftr.lab.exits.fit import FullRun
from lftr.methods import DyVTE, StaticExit
from lftr.methods.inside.schedules import Exit, Step
from lftr.methods.operations.exit_gates import Gates, MadeFor, features_of
from lftr.prompting import batch_inputs, inputs_of

from .views import build, view

TOKENS = 2  # of an answer


@pytest.fixture(scope="module")
def bundle():
    torch.set_num_threads(1)
    return bundled.load()


@pytest.fixture(scope="module")
def prompts(bundle):
    examples = suites.load(n=4, split="validation", seed=1)
    return [dict(inputs_of(bundle[1], [e.image], e.question)) for e in examples]


@pytest.fixture(scope="module")
def taught(bundle, prompts):
    """The prompts with the model's own answers after them."""
    found = []
    for inputs in prompts:
        ids = bundle[0].generate(**inputs, max_new_tokens=TOKENS, do_sample=False)
        prompt = torch.arange(ids.shape[1]) < inputs["input_ids"].shape[1]
        found.append(
            inputs
            | {
                "input_ids": ids,
                "attention_mask": torch.ones_like(ids),
                "labels": ids.masked_fill(prompt, -100),
            }
        )
    return found


@pytest.fixture(scope="module")
def gates(bundle, taught):
    return lftr.fit_exit(bundle[0], taught, draws=6, width=8, steps=100, learning_rate=1e-2)


def answers(model, prompts):
    return [
        model.generate(**one, max_new_tokens=TOKENS, do_sample=False).tolist() for one in prompts
    ]


def agreement(model, prompts, method):
    full = answers(model, prompts)
    with lftr.reduce(model, method):
        given = answers(model, prompts)
    return sum(a == b for a, b in zip(full, given, strict=True)) / len(prompts)


@pytest.mark.slow
def test_calibration_finds_the_smallest_layer_that_agrees(bundle, prompts):
    model, few = bundle[0], prompts[:3]
    found = lftr.calibrate_exit(model, few, max_new_tokens=TOKENS)
    layer = found.schedule.layer
    assert 1 < layer < 7
    assert agreement(model, few, found) == 1.0
    assert agreement(model, few, StaticExit(Exit(layer - 1))) < 0.99
    less = lftr.calibrate_exit(model, few, agreement=0.3, max_new_tokens=TOKENS)
    assert less.schedule.layer < layer
    none = lftr.calibrate_exit(model, few[:1], agreement=0.0, max_new_tokens=1)
    assert none == StaticExit(Exit(1))


@pytest.mark.parametrize("first", [1, 3])
@pytest.mark.parametrize("agreement", [1.0, 0.9])
def test_bisection_finds_every_layer(monkeypatch, first, agreement):
    """Of twenty prompts, two differ one layer before the one that is looked for, all earlier."""
    monkeypatch.setattr(calibrate, "exit_layers", lambda model: list(range(first, 32)))
    monkeypatch.setattr(calibrate, "_answers", lambda *_: [[0]] * 20)
    for wanted in range(first, 33):
        before = {wanted - 1: 2}
        monkeypatch.setattr(
            calibrate,
            "_count_differing",
            lambda model, inputs, full, layer, *_, found=wanted, near=before: (
                0 if layer >= found else near.get(layer, 20)
            ),
        )
        found = lftr.calibrate_exit(torch.nn.Identity(), [{}], agreement=agreement)
        earlier = wanted - 1 if agreement < 1 else wanted
        assert found == StaticExit(Exit(max(first, earlier)))


def test_calibration_of_a_batch_is_that_of_its_rows(bundle, prompts):
    model, processor = bundle
    examples = suites.load(n=2, split="validation", seed=1)
    batch = dict(batch_inputs(processor, [([e.image], e.question) for e in examples]))
    found = lftr.calibrate_exit(model, [batch], max_new_tokens=TOKENS)
    assert found == lftr.calibrate_exit(model, prompts[:2], max_new_tokens=TOKENS)


@pytest.mark.parametrize("ends", [0, [0], [9, 0]])
def test_an_end_token_of_number_0_is_no_part_of_an_answer(ends):
    """Rows that ended early are padded with it, as far as the longest row of their batch."""
    options = SimpleNamespace(eos_token_id=ends, pad_token_id=None)
    ids = torch.tensor([[5, 6, 0, 0], [5, 6, 7, 8]])
    model = SimpleNamespace(generate=lambda **_: ids, generation_config=options)
    assert calibrate._answers(model, {}, 2) == [[5, 6], [5, 6, 7, 8]]


def test_labels_are_those_of_runs_without_the_image(bundle, taught):
    model, _ = bundle
    whole = FullRun.of(model, taught[0])
    labels = taught[0]["labels"][0, 1:]
    place = labels != -100
    for layer in (1, 6):
        with lftr.reduce(model, StaticExit(Exit(layer))), torch.no_grad():
            out = model(**taught[0])
        same = bool((out.logits[0, :-1].argmax(-1) == labels)[place].all())
        assert whole.needs_no_image(model, layer, 0.99, float("inf")) == same
        assert whole.needs_no_image(model, layer, 0.99, 1.03) == (
            same and float(out.loss) < 1.03 * whole.loss
        )
    assert whole.needs_no_image(model, 6, 0.99, 1.03)
    assert not whole.needs_no_image(model, 6, 1.0, 1.03)  # more than all of its tokens
    assert not whole.needs_no_image(model, 6, 0.99, 0.5)  # half of the loss


def test_a_gate_is_taught_what_it_will_see(bundle, prompts, taught):
    """Features of a prompt are the same whether its answer follows or not."""
    model, _ = bundle
    seen = {}

    @dataclasses.dataclass(frozen=True)
    class Watcher(lftr.LayerMethod):
        schedule: Exit = Exit(1.0)

        def watches(self, depth):
            return frozenset(range(1, depth))

        def count(self, view, planned):
            seen[view.layer] = features_of(view.states, view.text)
            return planned

    with lftr.reduce(model, Watcher()), torch.no_grad():
        model(**prompts[0])
    features = FullRun.of(model, taught[0]).features
    assert features.keys() == seen.keys() == set(range(1, 7))
    for layer, x in features.items():
        torch.testing.assert_close(x, seen[layer], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_gates_learn_when_the_image_is_done(bundle, prompts, gates):
    model, _ = bundle
    method = DyVTE(gates)
    assert agreement(model, prompts, method) == 1.0
    layers = []
    for inputs in prompts:
        with lftr.reduce(model, method) as reduction, torch.no_grad():
            model(**inputs)
        layers.append(sum(layer.tokens > 0 for layer in reduction.report.layers))
    assert min(layers) < 7  # some prompts are done before the end
    assert len(set(layers)) > 1  # and each at a layer of its own


def test_gates_of_one_seed_are_the_same(bundle, taught):
    def fit(seed):
        found = lftr.fit_exit(bundle[0], taught[:2], draws=1, width=2, steps=3, seed=seed)
        return torch.cat([p.flatten() for p in found.parameters()])

    state = torch.random.get_rng_state()
    first = fit(0)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(5)
    assert not torch.equal(first, fit(1))


def test_fitting_leaves_the_model_as_it_was(bundle, taught):
    model, _ = bundle
    before = {name: x.clone() for name, x in model.state_dict().items()}
    with torch.no_grad():
        lftr.fit_exit(model, taught[:1], draws=1, width=2, steps=2, rule="agreement")
        plain = model(**taught[0]).logits
        lftr.calibrate_exit(model, [{k: v for k, v in taught[0].items() if k != "labels"}])
        assert torch.equal(model(**taught[0]).logits, plain)
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_gates_are_saved_and_loaded(gates, bundle, tmp_path):
    path = tmp_path / "gates.safetensors"
    gates.save(path)
    loaded = Gates.load(path)
    assert loaded.made_for == gates.made_for == MadeFor("llama", 256, 7)
    assert loaded.width == 8
    features = torch.randn(3, 512)
    for layer in range(1, 7):
        assert torch.equal(loaded(layer, features), gates(layer, features))
    method = lftr.get_method("dyvte", gates=str(path))
    method.check(bundle[0].config)
    seen = view(0, layer=3, depth=7)
    seen = dataclasses.replace(seen, states=torch.randn(len(seen.states), 256))
    assert method.count(seen, 20) == DyVTE(gates).count(seen, 20)


def test_new_gates_never_exit():
    gates = Gates(MadeFor("made up", 12, 8), width=4)
    for layer in range(1, 8):
        assert DyVTE(gates).count(view(layer, layer=layer), 20) == 20


def test_a_gate_decides_and_the_schedule_is_the_latest():
    gates = Gates(MadeFor("made up", 12, 8), width=4)
    gates.gates[3][2].bias.data = torch.tensor([0.0, 0.1])
    method = DyVTE(gates)
    assert [method.count(view(0, layer=i), 20) for i in range(1, 8)] == [20] * 3 + [0] + [20] * 3
    assert method.averaging(0.5).schedule == Exit(0.5)
    assert method.averaging(0.5).count(view(0, layer=5), 0) == 0


def test_features():
    states = torch.tensor([[9.0, 9.0], [3.0, 4.0], [3.0, -4.0], [0.0, 2.0]])
    root = 2**0.5
    one = features_of(states, torch.tensor([1, 2, 3]))
    torch.testing.assert_close(one, torch.tensor([root, 0.0, 0.0, root]))
    alone = features_of(states.half(), torch.tensor([3]))
    torch.testing.assert_close(alone, torch.tensor([0.0, root, 0.0, root]))
    assert features_of(torch.zeros(2, 2), torch.tensor([0, 1])).equal(torch.zeros(4))


@pytest.mark.parametrize(
    "changes",
    [{"num_hidden_layers": 6}, {"hidden_size": 128}, {"model_type": "mistral"}],
    ids=str,
)
def test_gates_of_another_model_are_refused(gates, bundle, changes):
    text = bundle[0].config.text_config.to_dict() | changes
    config = LlavaConfig(text_config=LlamaConfig(**text))
    config.text_config.model_type = text["model_type"]
    DyVTE(gates).check(bundle[0].config)
    with pytest.raises(lftr.LftrError, match=r"gates trained for .* cannot serve"):
        DyVTE(gates).check(config)


def test_a_refused_model_is_left_as_it_was(bundle, prompts):
    model, _ = bundle
    plain = model(**prompts[0]).logits
    hooks = [len(module._forward_pre_hooks) for module in model.modules()]
    for made_for in (MadeFor("llama", 256, 9), MadeFor("llama", 64, 7), MadeFor("qwen2", 256, 7)):
        with pytest.raises(lftr.LftrError, match="cannot serve"):
            lftr.reduce(model, DyVTE(Gates(made_for, width=2)))
    assert [len(module._forward_pre_hooks) for module in model.modules()] == hooks
    assert torch.equal(model(**prompts[0]).logits, plain)


def test_no_gates(bundle):
    with pytest.raises(lftr.LftrError, match=r"gates = None; allowed: what lftr\.fit_exit"):
        lftr.reduce(bundle[0], "dyvte")


@pytest.mark.parametrize("kind", ["missing", "text", "tensors", "metadata"])
def test_what_are_no_gates(kind, tmp_path):
    path = tmp_path / "gates.safetensors"
    known = {"format": "lftr.exits.Gates", "model_type": "x", "hidden_size": "4", "depth": "3"}
    if kind == "text":
        path.write_text("gates")
    elif kind == "tensors":
        save_file({"x": torch.ones(2)}, path, known | {"width": "2"})
    elif kind == "metadata":
        save_file({"x": torch.ones(2)}, path)
    with pytest.raises(lftr.LftrError, match="gates = "):
        DyVTE(path)


@pytest.mark.parametrize("name", ["hidden_size", "depth", "width"])
@pytest.mark.parametrize("value", ["-1", "0", "3", str(2**33), str(10**30), "x", "nan", ""])
def test_sizes_that_a_file_of_gates_must_not_name(name, value, tmp_path):
    path = tmp_path / "gates.safetensors"
    gates = Gates(MadeFor("x", 4, 4), 2)
    known = {"format": "lftr.exits.Gates", "model_type": "x"}
    known |= {"hidden_size": "4", "depth": "4", "width": "2"}
    save_file(gates.state_dict(), path, known)
    assert Gates.load(path).made_for == gates.made_for
    save_file(gates.state_dict(), path, known | {name: value})
    with pytest.raises(lftr.LftrError, match=r"gates = .*a file that Gates.save wrote"):
        Gates.load(path)
    save_file({n: x + torch.nan for n, x in gates.state_dict().items()}, path, known)
    with pytest.raises(lftr.LftrError, match=r"gates = .*a file that Gates.save wrote"):
        Gates.load(path)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"rule": "taste"}, "rule = 'taste'"),
        ({"draws": 0}, "draws = 0"),
        ({"width": 0}, "width = 0"),
        ({"steps": 0}, "steps = 0"),
        ({"data": []}, "data = "),
    ],
    ids=str,
)
def test_options_of_fitting(bundle, taught, options, named):
    data = options.pop("data", taught[:1])
    with pytest.raises(lftr.LftrError, match=named):
        lftr.fit_exit(bundle[0], data, **options)


def test_examples_that_teach_nothing(bundle, taught):
    one = taught[0]
    prompt = dict.fromkeys(["labels"], torch.full_like(one["labels"], -100))
    for change, named in [
        ({"labels": None}, "labels of shape None"),
        ({"labels": one["labels"][0]}, "labels of shape"),
        (prompt, "an answer after a prompt"),
        ({"labels": one["input_ids"]}, "an answer after a prompt"),
    ]:
        with pytest.raises(lftr.LftrError, match=named):
            lftr.fit_exit(bundle[0], [one | change])
    text = {"input_ids": torch.tensor([[1, 5, 6, 7]]), "labels": torch.tensor([[-100, -100, 6, 7]])}
    with pytest.raises(lftr.LftrError, match="inputs with an image"):
        lftr.fit_exit(bundle[0], [text])


def test_options_of_calibration(bundle, prompts):
    for options, named in [
        ({"agreement": 1.5}, "agreement = 1.5"),
        ({"max_new_tokens": 0}, "max_new_tokens = 0"),
    ]:
        with pytest.raises(lftr.LftrError, match=named):
            lftr.calibrate_exit(bundle[0], prompts, **options)
    with pytest.raises(lftr.LftrError, match="at least one prompt"):
        lftr.calibrate_exit(bundle[0], [])


def test_layers_before_which_an_image_can_go(bundle):
    assert exit_layers(bundle[0]) == [1, 2, 3, 4, 5, 6]
    with pytest.raises(lftr.LftrError, match="schedule = "):
        StaticExit(Step())
    assert build("dyvte").watches(8) == frozenset(range(1, 8))


def test_a_users_gates_are_left_as_they_are(gates, monkeypatch):
    """They are neither moved to the states' device nor taken out of training."""

    def refuse(module, *args, **kwargs):
        raise AssertionError("a user's module was moved")

    before = {name: (x.device, x.data_ptr()) for name, x in gates.named_parameters()}
    monkeypatch.setattr(torch.nn.Module, "to", refuse)
    gates.train()
    depth, size = gates.made_for.depth, gates.made_for.hidden_size
    seen = dataclasses.replace(view(layer=1, depth=depth), states=torch.randn(28, size))
    assert DyVTE(gates).count(seen, 20) in (0, 20)
    assert gates.training
    assert {name: (x.device, x.data_ptr()) for name, x in gates.named_parameters()} == before
    gates.eval()
