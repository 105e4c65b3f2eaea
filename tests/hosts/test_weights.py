"""Slots that stand for several tokens count as many, in every layer, family and kernel."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from zoo import DIFFUSION

import lftr
from lftr.hosts.transformers.layers import slot_weights
from lftr.methods import FastV, Merge
from lftr.methods.inside.schedules import Schedule, Step
from lftr.methods.operations.flows import grouped_flow, mean_flow

from .oracle import repeated_logits
from .support import (
    ALL,
    EVERY,
    FAMILIES,
    MIXED,
    NEW,
    PLAIN,
    ROWS,
    SQUARE,
    VIDEOS,
    WIDE,
    Image,
    Prompt,
    Row,
    ZooEntry,
    assert_close,
    assert_true,
    distance,
    fresh,
    reduced,
)
from .test_turns import LARGE, Chat, new_alone

MERGED = Merge("random")


def positions_of(entry: ZooEntry) -> str:
    return "compact" if entry.traits.unplaced else "original"


# ---- the truth: the plain language model on the slots, their weights in its mask -----------------


@pytest.mark.parametrize("rows", [[WIDE], ROWS], ids=["one row", "three rows"])
@pytest.mark.parametrize("entry", ALL, ids=str)
def test_generate(entry: ZooEntry, rows: list[Row]) -> None:
    prompt, positions = Prompt(entry, rows), positions_of(entry)
    with reduced(prompt.model, MERGED, positions=positions) as run:
        assert_true(prompt, run, prompt.generate(), positions)


@pytest.mark.parametrize("entry", ALL, ids=str)
def test_control(entry: ZooEntry) -> None:
    """Without weights the answer is another: the plain model's on the slots."""
    prompt, positions = Prompt(entry, [WIDE]), positions_of(entry)
    with reduced(prompt.model, MERGED, positions=positions) as run:
        weighed = prompt.generate(1).logits[0][0]
    with reduced(prompt.model, MERGED, positions=positions, weights="none") as run:
        plain = prompt.generate(1).logits[0][0]
        truth = prompt.truth(0, run.choices(), positions=positions, exponent=0.0)[0]
    assert_close(entry, plain, truth)
    assert distance(weighed, plain) > 5e-3


@pytest.mark.parametrize("entry", EVERY, ids=str)
def test_a_second_turn(entry: ZooEntry) -> None:
    """The weights of the first turn's slots hold in the second, beside those of a new image."""
    with reduced(entry.model(), MERGED, positions=positions_of(entry)) as run:
        chat = Chat(entry, run, positions_of(entry))
        chat.say(20, LARGE, 21)
        chat.answer(new_alone(chat, LARGE), chat.cache)


@pytest.mark.parametrize("exponent", [0.5, 2.0])
def test_exponent(entry: ZooEntry, exponent: float) -> None:
    prompt = Prompt(entry, [SQUARE])
    with reduced(prompt.model, MERGED, weights=exponent) as run:
        logits = prompt.generate(1).logits[0]
        assert_close(entry, logits, prompt.truth(0, run.choices(), exponent=exponent))


# ---- equal tokens: exact, against the full prompt itself -----------------------------------------


@dataclass(frozen=True)
class OneOfEach(lftr.Method):
    """Merges tokens that are equal: each run of ``times``."""

    times: int

    def choose(self, tokens: lftr.VisualTokens, keep: int) -> lftr.Selection:
        slot = (torch.arange(tokens.count) // self.times).expand(len(tokens.features), -1)
        index = torch.arange(0, tokens.count, self.times).expand(len(slot), -1)
        return lftr.Selection(index, mean_flow(slot, keep))


@pytest.mark.parametrize("weights", ["size", "none"])
@pytest.mark.parametrize("name", ["llava", "vipllava", "mistral3"])
def test_equal_tokens(name: str, weights: str) -> None:
    """N tokens that are K different ones, at K positions, answer as the K slots with weights do.

    The plain model's copies of a token see each other, by a mask of the caller's; otherwise the
    first copy would see fewer keys than the last, and they would no longer be equal after a layer.
    """
    entry, times = FAMILIES[name], 3
    prompt = Prompt(entry, [[2, Image("square", 2), 3]], model=fresh(FAMILIES[name]))
    model: Any = prompt.model

    def equal(_: Any, args: Any, output: Tensor) -> Tensor:
        shape = output.shape
        rows = output.reshape(-1, shape[-1])
        return rows[::times].repeat_interleave(times, dim=0).reshape(shape)

    model.base_model.multi_modal_projector.register_forward_hook(equal)
    inputs = prompt.inputs()
    ids = inputs["input_ids"]
    visual = prompt.visual(ids)[0]
    begins = ~visual | ((visual.cumsum(0) - 1) % times == 0)
    group = begins.cumsum(0) - 1
    with lftr.reduce(model, OneOfEach(times), keep=1 / times, weights=weights):
        output = model.generate(
            **inputs,
            position_ids=group[None],
            max_new_tokens=NEW,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
    new = output.sequences[:, -NEW:]
    places = torch.cat([group, group[-1] + torch.arange(1, NEW)])
    seen = places[:, None] >= places[None, :]
    whole = model(
        **{n: x for n, x in inputs.items() if n not in ("input_ids", "attention_mask", "labels")},
        input_ids=torch.cat([ids, new[:, :-1]], dim=1),
        position_ids=places[None],
        attention_mask=torch.zeros(seen.shape).masked_fill(~seen, -torch.inf)[None, None],
        use_cache=False,
    )
    found, expected = torch.cat(list(output.logits)), whole.logits[0, -NEW:]
    if weights == "size":
        assert_close(entry, found, expected)
    else:
        assert distance(found, expected) > 5e-3


@dataclass(frozen=True)
class Runs(lftr.Method):
    """Merges runs of two to four tokens; a kept token is the first of its run."""

    def choose(self, tokens: lftr.VisualTokens, keep: int) -> lftr.Selection:
        slot = (torch.arange(tokens.count) * keep // tokens.count).expand(len(tokens.features), -1)
        index = torch.searchsorted(slot[:1], torch.arange(keep)[None]).expand(len(slot), -1)
        return lftr.Selection(index, mean_flow(slot, keep))


@pytest.fixture
def interpreted() -> Iterator[None]:
    """Run flex attention without compiling its kernel, which takes minutes on a CPU."""
    with torch.compiler.set_stance("force_eager"):
        yield


KERNELS = ["eager", "sdpa", "flash_like", "flex_attention"]
CLIPS = [VIDEOS["llava_onevision"], VIDEOS["qwen2_5_vl"], MIXED["qwen3_vl"]]
REPEATED = ["llava", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "gemma3", "internvl", "idefics3"]


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("entry", [*(FAMILIES[name] for name in REPEATED), *CLIPS], ids=str)
def test_repeated_tokens(flash: str, interpreted: None, entry: ZooEntry, kernel: str) -> None:
    """K slots answer as the plain model does on each slot repeated as often as it counts.

    Prefill and each step: the plain model has no weights, all of it is in the number of tokens.
    """
    if kernel == flash and entry.name == "gemma3":
        pytest.skip("FlashAttention cannot see an image both ways")
    prompt = Prompt(entry, [WIDE], model=fresh(entry))
    prompt.model.config.get_text_config()._attn_implementation = kernel
    plain = entry.model()
    inputs = prompt.inputs()
    length = inputs["input_ids"].shape[1]
    for weights in ("size", "none"):
        with reduced(prompt.model, Runs(), 0.4, weights=weights) as run:
            output = prompt.generate()
            new = output.sequences[0, length:-1].tolist()
            visual = prompt.visual(inputs["input_ids"][0])
            expected = repeated_logits(plain, inputs, visual, run.choices(), new)
        found = torch.cat(list(output.logits))
        if weights == "size":
            assert_close(entry, found, expected, slack=3)
        else:  # without weights a slot is one token, and the answer another at every step
            assert float((found - expected).abs().amax(dim=1).min()) > 5e-3


# ---- kernels -------------------------------------------------------------------------------------


@pytest.fixture
def folds(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many queries each call had whose weights went through extra channels."""
    calls: list[int] = []
    fold = slot_weights._call_with_bias_channels

    def noted(kernel: Any, module: Any, query: Tensor, *rest: Any) -> Any:
        calls.append(query.shape[2])
        return fold(kernel, module, query, *rest)

    monkeypatch.setattr(slot_weights, "_call_with_bias_channels", noted)
    return calls


@pytest.mark.parametrize("rows", [[WIDE], [WIDE, PLAIN, SQUARE]], ids=["one row", "padded"])
@pytest.mark.parametrize("name", ["llava", "qwen2_vl", "qwen3_vl", "internvl", "mistral3"])
def test_kernels(
    flash: str, interpreted: None, folds: list[int], name: str, rows: list[Row]
) -> None:
    """Masks where a kernel has one, extra channels where it has none: the same answers."""
    answers: dict[str, Tensor] = {}
    entry = FAMILIES[name]
    others = ["sdpa", flash, "flex_attention"]
    for kernel in ("eager", *others):
        prompt = Prompt(entry, rows, model=fresh(entry))
        prompt.model.config.get_text_config()._attn_implementation = kernel
        folds.clear()
        with lftr.reduce(prompt.model, MERGED, keep=0.4):
            answers[kernel] = torch.stack(prompt.generate().logits, dim=1)
        single = len(rows) == 1
        assert bool(folds) == (kernel in others[1:] or (kernel == "sdpa" and single))
        assert kernel != "sdpa" or 1 not in folds  # one query needs no channels
    for kernel in others:
        assert_close(entry, answers[kernel], answers["eager"], slack=3)


@pytest.mark.slow
def test_flex(folds: list[int]) -> None:
    entry = FAMILIES["llava"]
    answers = []
    for kernel in ("eager", "flex_attention"):
        model = fresh(entry)
        model.config.get_text_config()._attn_implementation = kernel
        prompt = Prompt(entry, [WIDE], model=model)
        with lftr.reduce(model, MERGED, keep=0.4):
            answers.append(prompt.generate(1).logits[0])
    assert folds
    assert_close(entry, answers[1], answers[0], slack=3)


@pytest.mark.parametrize("kernel", ["sdpa", "flash_like"])
@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "gemma3"])
def test_half_precision(flash: str, name: str, kernel: str) -> None:
    """The second channel holds what a weight loses in bfloat16: as near as the mask is."""
    if kernel == flash and name == "gemma3":
        pytest.skip("FlashAttention cannot see an image both ways")
    entry = FAMILIES[name]
    exact = Prompt(entry, [SQUARE])
    with lftr.reduce(exact.model, MERGED, keep=0.2):
        truth = exact.generate(1).logits[0]
    half = Prompt(entry, [SQUARE], model=fresh(entry).to(torch.bfloat16))
    half.model.config.get_text_config()._attn_implementation = kernel
    with lftr.reduce(half.model, MERGED, keep=0.2):
        found = half.generate(1).logits[0].float()
    with lftr.reduce(half.model, MERGED, keep=0.2, weights="none"):
        plain = half.generate(1).logits[0].float()
    assert distance(found, truth) < 0.5 * distance(plain, truth)


def test_channels_are_exact() -> None:
    """log(s) / scale through bfloat16 channels, to the precision of float32 products."""
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, 2, 5, 16, dtype=torch.bfloat16) for _ in range(3))
    bias = torch.log(torch.tensor([[1.0, 3.0, 16.0, 47.0, 573.0]]))
    seen: dict[str, Tensor] = {}

    def kernel(_: Any, q: Tensor, k: Tensor, v: Tensor, __: Any, scaling: float) -> Any:
        seen["logits"] = (q.float() @ k.float().mT) * scaling
        return (v.transpose(1, 2), None)

    output = slot_weights._call_with_bias_channels(
        kernel, torch.nn.Identity(), query, key, value, None, bias, {}
    )
    plain = (query.float() @ key.float().mT) * 16**-0.5
    torch.testing.assert_close(seen["logits"] - plain, bias.expand_as(plain), atol=1e-3, rtol=0)
    assert output[0].shape == (1, 5, 2, 16)


# ---- callers -------------------------------------------------------------------------------------


def test_whole_is_plain(entry: ZooEntry, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slots that all stand for themselves: no kernel is touched."""

    def never(*_: Any) -> None:
        raise AssertionError

    prompt = Prompt(entry, [WIDE])
    monkeypatch.setattr(slot_weights, "replacing_kernels", never)
    with reduced(prompt.model, "random") as run:
        assert_true(prompt, run, prompt.generate())


OPTIONS: dict[str, dict[str, Any]] = {
    "beams": {"num_beams": 3},
    "static": {"cache_implementation": "static"},
    "offloaded": {"cache_implementation": "offloaded"},
    "lookup": {"prompt_lookup_num_tokens": 2},
    "assisted": {},
}


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "gemma3", "internvl"])
def test_callers(name: str, option: str) -> None:
    """The same answer as with the same weights by the mask of every layer."""
    if option == "offloaded" and not torch.cuda.is_available():
        pytest.skip("transformers offloads caches from a GPU alone")
    entry, options = FAMILIES[name], dict(OPTIONS[option])
    if option == "assisted":
        if (reason := entry.traits.cannot("assistant_model")) is not None:
            pytest.skip(reason)
        options["assistant_model"] = entry.build(seed=1)
    prompt = Prompt(entry, [SQUARE] if option in ("lookup", "assisted") else [WIDE, SQUARE])
    settings = {"max_new_tokens": 5, "do_sample": False}
    with lftr.reduce(prompt.model, MERGED, keep=0.4):
        plain = prompt.model.generate(**prompt.inputs(), **settings)
        found = prompt.model.generate(**prompt.inputs(), **settings, **options)
    if option != "beams":
        assert torch.equal(found, plain)
        return
    with reduced(prompt.model, MERGED) as run:
        found = prompt.generate(5, num_beams=3, output_scores=True)
    length = prompt.inputs()["input_ids"].shape[1]
    for row in range(2):
        new = found.sequences[row, length:].tolist()
        truth = prompt.truth(row, run.choices(row), new[:-1]).log_softmax(dim=-1)
        score = truth[range(len(new)), new].sum() / len(new)
        assert abs(float(score - found.sequences_scores[row])) < 1e-3


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "internvl"])
def test_a_quantised_cache(name: str, inside: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a storage type that loses nothing it answers as any cache does."""
    layer = getattr(transformers.cache_utils, "Fp8QuantizedLayer", None)
    if layer is None:
        pytest.skip("the backends of this release need packages: optimum-quanto or hqq")
    entry = FAMILIES[name]
    prompt = Prompt(entry, [WIDE, SQUARE])
    quantised = {"cache_implementation": "quantized", "cache_config": {"backend": "fp8"}}
    with lftr.reduce(prompt.model, [MERGED, Halves()] if inside else MERGED, keep=0.4):
        expected = torch.stack(prompt.generate().logits, dim=1)
        rounded = torch.stack(prompt.generate(**quantised).logits, dim=1)
        monkeypatch.setattr(layer, "fp8_dtype", torch.float32)
        found = torch.stack(prompt.generate(**quantised).logits, dim=1)
    assert_close(entry, found, expected)
    assert 1e-3 < distance(rounded, expected) < 0.5  # it was quantised, and a little only


@dataclass(frozen=True)
class Halves(lftr.LayerMethod):
    """Merges neighbours in pairs before a layer; ``kept`` alone is read, or only its weight."""

    schedule: Schedule = Step(1, 0.5)
    weight_alone: bool = False

    def select(self, view: Any, keep: int) -> lftr.Selection:
        slot = (torch.arange(len(view.visual)) * keep) // len(view.visual)
        index = torch.searchsorted(slot, torch.arange(keep))
        if self.weight_alone:
            return lftr.Selection(index, slot_weight=torch.bincount(slot).float())
        return lftr.Selection(index, grouped_flow(torch.arange(len(slot)), slot, keep))


INSIDE = [FastV(layer=1, keep=0.5), Halves(), Halves(Step(2, 0.5), weight_alone=True)]


@pytest.mark.parametrize("inside", INSIDE, ids=str)
@pytest.mark.parametrize("before", [True, False], ids=["after a merge", "alone"])
@pytest.mark.parametrize("name", ["llava", "qwen2_vl", "gemma3"])
def test_inside(flash: str, name: str, before: bool, inside: Any) -> None:
    """Each layer's keys are those that the methods inside left there, with their weights."""
    entry = FAMILIES[name]
    methods = [MERGED, inside] if before else inside
    keep = 0.4 if before else None
    answers = []
    for kernel in ("eager", "sdpa", flash):
        if kernel == flash and name == "gemma3":  # which sees images both ways
            continue
        model = fresh(entry)
        model.config.get_text_config()._attn_implementation = kernel
        prompt = Prompt(entry, [WIDE, PLAIN, SQUARE], model=model)
        with lftr.reduce(model, methods, keep=keep):
            together = prompt.generate()
            answers.append(torch.stack(together.logits, dim=1))
            for row in (0, 2):
                alone = prompt.alone(row).generate()
                assert_close(entry, torch.stack(alone.logits, dim=1)[0], answers[-1][row], slack=3)
        with lftr.reduce(model, methods, keep=keep, weights="none"):
            plain = torch.stack(prompt.generate().logits, dim=1)
        weighs = before or not isinstance(inside, FastV)
        assert (distance(plain, answers[-1]) > 5e-3) == weighs
    for answer in answers[1:]:
        assert_close(entry, answer, answers[0], slack=3)


@pytest.mark.parametrize("kernel", ["sdpa", "flash_like"])
def test_beams_inside(flash: str, llava: ZooEntry, kernel: str) -> None:
    """Each beam has the weights of its own row, also those that a method inside changed."""
    prompt = Prompt(llava, [WIDE, SQUARE], model=fresh(llava))
    prompt.model.config.get_text_config()._attn_implementation = kernel
    options = {"num_beams": 3, "output_scores": True}
    with lftr.reduce(prompt.model, [MERGED, Halves()], keep=0.4):
        together = prompt.generate(5, **options).sequences_scores
        alone = [prompt.alone(row).generate(5, **options).sequences_scores for row in range(2)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("positions", ["original", "compact"])
def test_a_forward_in_a_callback(llava: ZooEntry, positions: str) -> None:
    """Another prompt that a logits processor runs is answered as by the plain model."""
    prompt = Prompt(llava, [WIDE])
    text = {"input_ids": torch.tensor([[5, 6, 7, 8]]), "use_cache": False}
    expected, found = prompt.model(**text).logits, []

    def process(ids: Tensor, scores: Tensor) -> Tensor:
        found.append(prompt.model(**text).logits)
        return scores

    with lftr.reduce(prompt.model, MERGED, keep=0.4, positions=positions):
        plain = prompt.generate().logits
        again = prompt.generate(logits_processor=[process]).logits
    assert len(found) == NEW
    for logits in found:
        assert_close(llava, logits, expected)
    for left, right in zip(again, plain, strict=True):
        assert torch.equal(left, right)


@pytest.mark.parametrize("later", ["none", 0.5])
def test_a_cache_of_other_weights(llava: ZooEntry, later: Any) -> None:
    prompt = Prompt(llava, [SQUARE])
    with lftr.reduce(prompt.model, MERGED, keep=0.4):
        first = prompt.generate(2)
    more = torch.cat([first.sequences, torch.tensor([[20, 21]])], dim=1)
    with (
        lftr.reduce(prompt.model, MERGED, keep=0.4, weights=later),
        pytest.raises(lftr.LftrError, match=r"filled with weights=1, .* has weights="),
    ):
        prompt.model.generate(
            input_ids=more,
            attention_mask=torch.ones_like(more),
            past_key_values=first.past_key_values,
            max_new_tokens=1,
        )


def test_another_method_inside_goes_on(llava: ZooEntry) -> None:
    """What merged in an earlier turn keeps its weight under a method that only drops."""
    prompt = Prompt(llava, [SQUARE])
    answers = []
    for weights in ("size", "none"):
        with lftr.reduce(prompt.model, Halves()):
            first = prompt.generate(2)
        more = torch.cat([first.sequences, torch.tensor([[20, 21]])], dim=1)
        with lftr.reduce(prompt.model, FastV(layer=1, keep=0.5), weights=weights):
            second = prompt.model.generate(
                input_ids=more,
                attention_mask=torch.ones_like(more),
                past_key_values=first.past_key_values,
                max_new_tokens=1,
                output_logits=True,
                return_dict_in_generate=True,
            )
        answers.append(second.logits[0])
    assert distance(*answers) > 5e-3


@pytest.mark.parametrize("checkpointed", [False, True])
def test_gradients(llava: ZooEntry, checkpointed: bool) -> None:
    """Through extra channels as through the eager kernel's mask, also where layers run twice."""
    found: list[Tensor] = []
    for kernel in ("eager", "sdpa"):
        model = fresh(llava).requires_grad_(True)
        model.config.get_text_config()._attn_implementation = kernel
        if checkpointed:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        model.train()
        prompt = Prompt(llava, [WIDE], model=model)
        with torch.enable_grad(), lftr.reduce(model, MERGED, keep=0.4):
            model(**prompt.inputs()).logits.square().mean().backward()
        layer = model.base_model.language_model.layers[0]
        found.append(layer.self_attn.k_proj.weight.grad.clone())
    assert float(found[0].abs().max()) > 0
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-6)


def test_checkpointing_stays_on(llava: ZooEntry) -> None:
    """Frozen tokens and weights both switch it off in some layers, one within the other."""
    model = fresh(llava)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    layers = list(model.base_model.language_model.layers)
    before = [layer.gradient_checkpointing for layer in layers]
    frozen = lftr.get_method("freeze")
    with lftr.reduce(model, [MERGED, frozen], keep=0.4):
        Prompt(llava, [WIDE], model=model).forward()
    assert [layer.gradient_checkpointing for layer in layers] == before
    assert all(before)


# ---- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", ["sizes", -1, float("nan"), True, [1.0]])
def test_wrong_values(llava: ZooEntry, weights: object) -> None:
    with pytest.raises(lftr.LftrError, match=r"weights = .*'size', 'none' or a number"):
        lftr.reduce(llava.model(), keep=0.4, weights=weights)  # type: ignore[arg-type]


def test_prepare(llava: ZooEntry) -> None:
    """What no argument can pass on is not lost without a word."""
    prompt = Prompt(llava, [WIDE])
    with (
        lftr.reduce(prompt.model, MERGED, keep=0.4),
        pytest.raises(lftr.LftrError, match="how many each slot stands for"),
    ):
        lftr.prepare(prompt.model, **prompt.inputs())


@pytest.mark.parametrize("inside", [False, True])
def test_heads_without_room(
    flash: str, llava: ZooEntry, inside: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked for by name: refused. By default: without weights, and the report says so."""
    model, other = fresh(llava), fresh(llava)
    for one in (model, other):
        one.config.get_text_config()._attn_implementation = flash
    with monkeypatch.context() as patch:
        for layer in model.base_model.language_model.layers:
            patch.setattr(layer.self_attn, "head_dim", 256)
        merging = {"method": Halves()} if inside else {"method": MERGED, "keep": 0.4}
        with pytest.raises(lftr.LftrError, match=r"weights = 1\.0; .*at most 256 channels"):
            lftr.reduce(model, **merging, weights="size")
        reduction = lftr.reduce(model, **merging)
    with reduction:
        found = Prompt(llava, [WIDE], model=model).generate(1).logits[0]
    (note,) = (note for note in reduction.report.notes if "slots have no weights" in note)
    assert "heads of at most 256 channels" in note
    assert "attn_implementation='sdpa'" in note
    assert "standing for" not in str(reduction.report)
    with lftr.reduce(other, **merging, weights="none") as reduction:
        plain = Prompt(llava, [WIDE], model=other).generate(1).logits[0]
    assert torch.equal(found, plain)
    assert not reduction.report.notes  # asked for


@pytest.mark.parametrize("name", ["mllama", "blip_2", "diffusion_gemma"])
def test_without_attention_to_slots(name: str) -> None:
    """Asked for by name: refused. By default: without weights, and the report says so."""
    entry = DIFFUSION if name == "diffusion_gemma" else FAMILIES[name]
    prompt = Prompt(entry, [SQUARE])
    reason = "reads images by cross-attention, a Q-Former or in blocks"
    with pytest.raises(lftr.LftrError, match=rf"weights = 1\.0; \w+ {reason}"):
        lftr.reduce(prompt.model, MERGED, keep=0.4, weights="size")
    for method, said in ((MERGED, 1), ("random", 0)):
        with lftr.reduce(prompt.model, method, keep=0.4) as reduction:
            prompt.model.generate(**prompt.inputs(), max_new_tokens=1)
        notes = [note for note in reduction.report.notes if "slots have no weights" in note]
        assert len(notes) == said
        assert all(reason in note for note in notes)
        assert reduction.report.weights == 0


def test_linear_attention_is_named() -> None:
    prompt = Prompt(FAMILIES["qwen3_5"], [SQUARE])
    kinds = prompt.model.config.get_text_config().layer_types
    linear = ", ".join(str(i) for i, kind in enumerate(kinds) if kind == "linear_attention")
    note = f"layers {linear} have no attention, and count a slot as one token"
    for method, said in ((MERGED, True), ("random", False)):
        with lftr.reduce(prompt.model, method, keep=0.4) as reduction:
            prompt.generate(1)
        assert (note in reduction.report.notes) == said


def test_softcap(llava: ZooEntry) -> None:
    """Only the eager kernel adds a mask after the limit: others are refused, or noted."""
    model = fresh(llava)
    text = model.config.get_text_config()
    text.attn_logit_softcapping = 50.0
    text._attn_implementation = "sdpa"
    with pytest.raises(lftr.LftrError, match=r"weights = 1\.0; .*softcap.*='eager'"):
        lftr.reduce(model, MERGED, keep=0.4, weights="size")
    with lftr.reduce(model, MERGED, keep=0.4) as reduction:
        Prompt(llava, [SQUARE], model=model).generate(1)
    assert any("softcap" in note for note in reduction.report.notes)
    text._attn_implementation = "eager"
    with lftr.reduce(model, MERGED, keep=0.4, weights="size") as reduction:
        Prompt(llava, [SQUARE], model=model).generate(1)
    assert reduction.report.weights == 1
    assert not reduction.report.notes


def test_a_kernel_with_a_softcap() -> None:
    """A limit that the configuration does not name is noticed where the kernel is called."""
    query, key, value = (torch.randn(1, 2, 5, 16) for _ in range(3))

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError

    with pytest.raises(lftr.LftrError, match=r"Identity limits its attention logits \(softcap\)"):
        slot_weights._call_with_bias_channels(
            never, torch.nn.Identity(), query, key, value, None, torch.ones(1, 5), {"softcap": 50.0}
        )


@pytest.mark.parametrize("what", ["a layer is missed", "other keys"])
def test_it_notices(llava: ZooEntry, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention that the weights cannot reach raises, and the model is as it was."""
    prompt = Prompt(llava, [WIDE], model=fresh(llava))
    attention = prompt.model.base_model.language_model.layers[1].self_attn
    if what == "a layer is missed":
        own = type(attention).forward

        def forward(*args: Any, **kwargs: Any) -> Any:  # looks no kernel up by transformers' table
            with monkeypatch.context() as patch:
                patch.delitem(vars(ALL_ATTENTION_FUNCTIONS), "get_interface")
                return own(attention, *args, **kwargs)

        attention.forward = forward
        reason = "layers 1 attended without the weights"
    else:
        monkeypatch.setattr(slot_weights, "layer_sizes", lambda *_: (7, 0))
        reason = "got .* keys"
    with (
        lftr.reduce(prompt.model, MERGED, keep=0.4),
        pytest.raises(lftr.LftrError, match=reason),
    ):
        prompt.generate(2)
    assert "get_interface" not in vars(ALL_ATTENTION_FUNCTIONS)
