"""`lftr.ONLY` against the same steps written by hand, for plain and reduced prompts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
import zoo
from torch import Tensor

import lftr
from lftr.lab.asking.settings import Setting
from lftr.methods import Merge, get_method
from lftr.verifying.traces import traces

from .oracle import language_model
from .support import (
    FAMILIES,
    NEW,
    PLAIN,
    ROWS,
    SQUARE,
    WIDE,
    Image,
    Prompt,
    Run,
    ZooEntry,
    assert_close,
    conversation,
    distance,
    fresh,
    interleaved,
    reduced,
)

NEUTRAL = lftr.ONLY(alpha1=0.0, alpha2=0.0, beta=0.0)
AGREED, CONTRASTED = lftr.ONLY(gamma=2.0, beta=0.0), lftr.ONLY(gamma=0.0, beta=0.0)
BY_HAND = [FAMILIES["llava"], FAMILIES["qwen2_5_vl"]]

# ---- by hand: one row, no cache, no padding, eager attention, one head after the other -----------


def turned(x: Tensor, positions: Tensor, config: Any) -> Tensor:
    """Rotary embeddings of `(heads, L, d)`; M-RoPE takes its channels' angles from three axes."""
    half = x.shape[-1] // 2
    speed = config.rope_parameters["rope_theta"] ** (-torch.arange(half) / half)
    sections = config.rope_parameters.get("mrope_section")
    axis = torch.zeros(half, dtype=torch.long)
    if sections:
        axis = torch.arange(3).repeat_interleave(torch.tensor(sections))
        positions = positions[-3:]
    angles = positions.reshape(-1, x.shape[1])[axis].T * speed
    first, second = x[..., :half], x[..., half:]
    return torch.cat(
        [
            first * angles.cos() - second * angles.sin(),
            second * angles.cos() + first * angles.sin(),
        ],
        dim=-1,
    )


def attention_of(layer: Any, states: Tensor, positions: Tensor, bias: Tensor, config: Any) -> Any:
    """Attention `(heads, L, L)` and values `(heads, L, d)`."""
    own, heads = layer.self_attn, config.num_attention_heads
    normed, length = layer.input_layernorm(states), len(states)
    q, k, v = (
        one(normed).view(length, -1, own.head_dim).transpose(0, 1)
        for one in (own.q_proj, own.k_proj, own.v_proj)
    )
    times = heads // len(k)
    q, k = turned(q, positions, config), turned(k, positions, config)
    later = torch.ones(length, length).triu(1).bool()
    weights = []
    for head in range(heads):
        logits = q[head] @ k[head // times].T / math.sqrt(own.head_dim) + bias
        weights.append(logits.masked_fill(later, -torch.inf).softmax(dim=-1))
    return torch.stack(weights), v.repeat_interleave(times, dim=0)


def thinned(weights: Tensor, columns: Tensor) -> tuple[Tensor, float]:
    """One head's attention without peaks among some columns, and the entropy of what is left."""
    part = weights[columns]
    if len(part) > 1:
        part = torch.where(part > part.mean() + part.std(), 0.0, part)
    out = weights.clone()
    out[columns] = part
    shares = part / part.sum()
    return out, float(-sum(p * math.log(p + 1e-6) for p in shares.tolist()))


def logits_by_hand(
    model: Any,
    embeds: Tensor,
    positions: Tensor,
    visual: Tensor,
    bias: Tensor,
    only: lftr.ONLY,
) -> tuple[Tensor, Tensor]:
    """The last column's logits: those of the model, and those of the text-enhanced state."""
    inner, config = language_model(model), model.config.get_text_config()
    states = embeds
    text = ~visual
    text[0] = False
    for number, layer in enumerate(inner.layers):
        weights, values = attention_of(layer, states, positions, bias, config)
        if number == only.layer:
            rows, ratios = [], []
            for one in weights[:, -1]:
                row, over_image = thinned(one, visual.nonzero().squeeze(1))
                row, over_text = thinned(row, text.nonzero().squeeze(1))
                rows.append(row)
                ratios.append(over_text / max(over_image, 1e-6))
            mean = sum(ratios) / len(ratios)
            parts = [
                row @ values[head] if ratio >= mean else torch.zeros(values.shape[-1])
                for head, (row, ratio) in enumerate(zip(rows, ratios, strict=True))
            ]
            enhanced = layer.self_attn.o_proj(torch.cat(parts))
        if layer is inner.layers[-1]:
            mixed = 0.2 * states[-1] + layer.input_layernorm(enhanced)
            mixed = mixed + layer.mlp(layer.post_attention_layernorm(mixed))
        put = (weights @ values).transpose(0, 1).flatten(1)
        states = states + layer.self_attn.o_proj(put)
        states = states + layer.mlp(layer.post_attention_layernorm(states))
    last = inner.norm(states[-1])
    head = model.get_output_embeddings()
    return head(last), head(inner.norm(mixed) + 0.5 * last)


def combined_by_hand(f: Tensor, g: Tensor, only: lftr.ONLY) -> Tensor:
    if (f.softmax(0) - g.softmax(0)).abs().sum() < only.gamma:
        out = f + only.alpha1 * g
    else:
        out = (1 + only.alpha2) * f - only.alpha2 * g
    return torch.where(f.softmax(0) < only.beta * f.softmax(0).max(), -torch.inf, out)


def truth(prompt: Prompt, run: Run, row: int, new: Sequence[int], only: lftr.ONLY) -> Any:
    """The logits by hand after a row and after each of `new`, on what the oracle gathers of it."""
    choices = run.choices(row)
    given: dict[str, Any] = {}
    inner = language_model(prompt.model)
    handle = inner.register_forward_pre_hook(
        lambda _, args, kwargs: given.update(kwargs), with_kwargs=True
    )
    prompt.truth(row, choices, new)
    handle.remove()
    ids = prompt.alone(row).inputs()["input_ids"][0]
    visual = prompt.visual(ids)
    keep, bias = ~visual, torch.zeros(len(ids))
    if choices:
        keep[visual] = torch.cat([choice.anchors for choice in choices])
        bias[visual] = torch.cat([choice.log_weight for choice in choices])
    more = torch.zeros(len(new))
    visual, bias = torch.cat([visual[keep], more.bool()]), torch.cat([bias[keep], more])
    embeds, positions = given["inputs_embeds"][0], given["position_ids"][..., 0, :]
    begins = len(embeds) - len(new)
    return [
        logits_by_hand(
            prompt.model, embeds[:end], positions[..., :end], visual[:end], bias[:end], only
        )
        for end in range(begins, len(embeds) + 1)
    ]


def assert_by_hand(prompt: Prompt, run: Run, output: Any, only: lftr.ONLY) -> None:
    length = prompt.inputs()["input_ids"].shape[1]
    for row in range(len(prompt.rows)):
        new = output.sequences[row, length:].tolist()
        concerned = bool(prompt.visual(prompt.alone(row).inputs()["input_ids"]).any())
        if not concerned:
            found = torch.stack([step[row] for step in output.logits])
            assert_close(prompt.entry, found, prompt.truth(row, [], new[:-1]))
            continue
        for step, (f, g) in enumerate(truth(prompt, run, row, new[:-1], only)):
            assert distance(f, g) > 1e-3  # else nothing is tested
            expected = combined_by_hand(f, g, only)
            found = output.logits[step][row]
            assert torch.equal(found.isinf(), expected.isinf())
            allowed = expected.isfinite()
            assert_close(prompt.entry, found[allowed], expected[allowed], slack=5.0)


@pytest.mark.parametrize("only", [AGREED, CONTRASTED, lftr.ONLY(layer=2, beta=0.8)], ids=str)
@pytest.mark.parametrize("method", ["random", Merge("random")], ids=str)
@pytest.mark.parametrize("keep", [1.0, 0.4])
@pytest.mark.parametrize("entry", BY_HAND, ids=str)
def test_equals_what_is_written_by_hand(
    entry: ZooEntry, keep: float, method: Any, only: lftr.ONLY
) -> None:
    """Three rows of other lengths, one without an image, with the weights of merged slots."""
    prompt = Prompt(entry, ROWS)
    with reduced(prompt.model, method, keep, decoding=only) as run:
        assert_by_hand(prompt, run, prompt.generate(), only)


@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
@pytest.mark.parametrize("entry", BY_HAND, ids=str)
def test_one_visual_token(entry: ZooEntry, kernel: str) -> None:
    """Its entropy is 0: the heads are told apart by the text alone."""
    prompt = Prompt(entry, [SQUARE], entry.model(kernel))
    with reduced(prompt.model, "random", 1, decoding=AGREED) as run:
        assert_by_hand(prompt, run, prompt.generate(), AGREED)


def test_flash_attention(flash: str) -> None:
    prompt = Prompt(FAMILIES["llava"], ROWS, fresh(FAMILIES["llava"]))
    prompt.model.config.get_text_config()._attn_implementation = flash
    with reduced(prompt.model, decoding=AGREED) as run:
        assert_by_hand(prompt, run, prompt.generate(), AGREED)


# types whose layers are of another making, and what the error says
REFUSED = {"qwen3_5": "attends otherwise than by its queries and keys"}  # its heads have gates
FIRST = {"qwen3_5": 3}  # the first layer with attention, where that is not 0


# ---- controls ------------------------------------------------------------------------------------


def test_alphas_of_zero_change_nothing(entry: ZooEntry) -> None:
    """In every family: bit for bit; and with others the logits change, of rows with images."""
    prompt, layer = Prompt(entry, [WIDE, PLAIN]), FIRST.get(entry.name, 0)
    neutral_one, agreed = replace(NEUTRAL, layer=layer), replace(AGREED, layer=layer)
    for keep in (1.0, 0.4):
        with reduced(prompt.model, keep=keep):
            plain = prompt.generate()
        if entry.name in REFUSED:
            with (
                pytest.raises(lftr.UnsupportedModelError, match=REFUSED[entry.name]),
                reduced(prompt.model, keep=keep, decoding=neutral_one),
            ):
                prompt.generate()
            continue
        with reduced(prompt.model, keep=keep, decoding=neutral_one):
            neutral = prompt.generate()
        with reduced(prompt.model, keep=keep, decoding=agreed):
            corrected = prompt.generate(1).logits[0]
        for one, other in zip(plain.logits, neutral.logits, strict=True):
            assert torch.equal(one, other)
        assert distance(corrected[0], plain.logits[0][0]) > 1e-2
        assert torch.equal(corrected[1], plain.logits[0][1])


def test_nothing_is_left_on_the_model(llava: ZooEntry) -> None:
    prompt = Prompt(llava, ROWS, fresh(llava))
    before, plain = traces(prompt.model), prompt.generate()
    with lftr.reduce(prompt.model, keep=0.4, decoding=lftr.ONLY()):
        prompt.generate()
    assert traces(prompt.model) == before
    again = prompt.generate()
    assert all(torch.equal(a, b) for a, b in zip(plain.logits, again.logits, strict=True))


def test_a_forward_is_the_models_own(llava: ZooEntry) -> None:
    """Outside generate, labels and logits are not corrected."""
    prompt = Prompt(llava)
    with lftr.reduce(prompt.model, "uniform", keep=0.4):
        plain = prompt.forward().logits
    with lftr.reduce(prompt.model, "uniform", keep=0.4, decoding=AGREED) as reduction:
        assert torch.equal(prompt.forward().logits, plain)
        with pytest.raises(lftr.UnsupportedModelError, match="generate alone"):
            reduction.prepare(**prompt.inputs())


# ---- ways to decode ------------------------------------------------------------------------------


def test_sampling_draws_from_the_corrected_logits(llava: ZooEntry) -> None:
    only = lftr.ONLY(gamma=0.0, beta=0.9)
    prompt = Prompt(llava, [SQUARE])
    with lftr.reduce(prompt.model, "uniform", keep=0.4, decoding=only):
        greedy = prompt.generate(1).logits[0]
        drawn = prompt.generate(do_sample=True, temperature=0.5, top_k=0, output_scores=True)
    assert_close(llava, drawn.logits[0], greedy) if greedy.isfinite().all() else None
    for logits, scores, token in zip(
        drawn.logits, drawn.scores, drawn.sequences[0, -NEW:], strict=True
    ):
        assert torch.equal(scores, logits / 0.5)
        assert logits[0, token].isfinite()
        assert logits.isinf().any()


@pytest.mark.parametrize(
    "options",
    [
        {"cache_implementation": "static"},
        {"use_cache": False},
        pytest.param(
            {"prefill_chunk_size": 7},
            marks=pytest.mark.skipif(
                zoo.RELEASE < (5, 23), reason="upstream: no chunk of the prompt"
            ),
        ),
        {"prompt_lookup_num_tokens": 2},
        {"num_beams": 2, "num_return_sequences": 2},
    ],
    ids=str,
)
@pytest.mark.parametrize("entry", BY_HAND, ids=str)
def test_ways_to_generate(entry: ZooEntry, options: dict[str, Any]) -> None:
    """By hand, whichever way: chunks, beams, candidates that are checked several at a time."""
    prompt = Prompt(entry, [SQUARE])
    with reduced(prompt.model, "uniform", decoding=CONTRASTED) as run:
        output = prompt.generate(**options)
        length = prompt.inputs()["input_ids"].shape[1]
        if "num_beams" in options:
            new = output.sequences[:, length:].tolist()
            for tokens, score in zip(new, output_scores(prompt, options), strict=True):
                steps = truth(prompt, run, 0, tokens[:-1], CONTRASTED)
                logs = [combined_by_hand(f, g, CONTRASTED).log_softmax(0) for f, g in steps]
                total = sum(float(one[token]) for one, token in zip(logs, tokens, strict=True))
                assert total / len(tokens) == pytest.approx(score, abs=1e-4)
            return
        assert_by_hand(prompt, run, output, CONTRASTED)


def output_scores(prompt: Prompt, options: dict[str, Any]) -> list[float]:
    return prompt.generate(**options, output_scores=True).sequences_scores.tolist()


def test_a_second_turn(llava: ZooEntry) -> None:
    """With the cache of the first, as without it."""
    model, image = llava.model(), Image("square", 2)
    options: dict[str, Any] = {"max_new_tokens": 2, "do_sample": False, "output_logits": True}
    options |= {"return_dict_in_generate": True}
    ids = llava.row_ids(model, [3, image, 2])
    with lftr.reduce(model, Merge("uniform"), keep=0.4, decoding=AGREED):
        first = model.generate(**conversation(llava, model, ids, [image]), **options)
        ids = [*first.sequences[0].tolist(), 7, *llava.image_ids(model, image), 8]
        inputs = conversation(llava, model, ids, [image, image])
        later = model.generate(**inputs, past_key_values=first.past_key_values, **options)
        whole = model.generate(**inputs, **options)
    for one, other in zip(later.logits, whole.logits, strict=True):
        assert_close(llava, one, other)


@pytest.mark.parametrize("inside", ["fastv", "pyramiddrop", "feather", "sparsevlm"])
def test_beside_methods_inside(inside: str) -> None:
    """They decide as without it, and the checks of every forward hold for their fewer columns."""
    prompt = Prompt(FAMILIES["llava"], ROWS)
    methods = ["uniform", inside]
    with lftr.reduce(prompt.model, methods, keep=0.6) as reduction:
        plain, report = prompt.generate(), reduction.report.layers
    with lftr.reduce(prompt.model, methods, keep=0.6, decoding=NEUTRAL) as reduction:
        neutral = prompt.generate()
        assert reduction.report.layers == report
    for one, other in zip(plain.logits, neutral.logits, strict=True):
        assert torch.equal(one, other)
    with lftr.reduce(prompt.model, methods, keep=0.6, decoding=AGREED):
        assert distance(prompt.generate(1).logits[0][0], plain.logits[0][0]) > 1e-2


def test_two_threads(llava: ZooEntry) -> None:
    prompt, other = Prompt(llava, [SQUARE]), Prompt(llava, [WIDE, SQUARE])
    with lftr.reduce(prompt.model, "uniform", keep=0.4, decoding=AGREED):
        alone = prompt.generate().logits, other.generate().logits
        layer = language_model(prompt.model).layers[1]
        with interleaved(layer, other.generate) as results:
            mine = prompt.generate().logits
    for one, expected in [(mine, alone[0]), *((r.logits, alone[1]) for r in results)]:
        assert all(torch.equal(a, b) for a, b in zip(one, expected, strict=True))


def test_a_setting_of_a_comparison(llava: ZooEntry) -> None:
    setting = Setting("full", get_method("uniform"), 1.0, decoding=lftr.ONLY(layer=1))
    assert not setting.full
    assert setting.name == f"full with {setting.decoding}"


# ---- refused -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [{"layer": -1}, {"gamma": 2.5}, {"alpha1": -1.0}, {"beta": 1.5}], ids=str
)
def test_an_option_out_of_its_range(options: dict[str, Any]) -> None:
    ((name, value),) = options.items()
    with pytest.raises(lftr.ArgumentError, match=rf"{name} = {value}; allowed: "):
        lftr.ONLY(**options)


def test_bad_arguments(llava: ZooEntry) -> None:
    with pytest.raises(lftr.ArgumentError, match="decoding = 'only'; allowed: an lftr"):
        lftr.reduce(llava.model(), keep=0.5, decoding="only")  # type: ignore[arg-type]
    with pytest.raises(lftr.ArgumentError, match="layer = 3; allowed: 0, 1, 2: "):
        lftr.reduce(llava.model(), keep=0.5, decoding=lftr.ONLY(layer=3))
    with pytest.raises(lftr.ArgumentError, match="layer = 0; allowed: 3: layers of this Qwen3_5"):
        lftr.reduce(FAMILIES["qwen3_5"].model(), keep=0.5, decoding=lftr.ONLY())
    with pytest.raises(lftr.ArgumentError, match="layer = 2; allowed: 0, 1: "):
        lftr.reduce(llava.model(), ["uniform", "fastv"], keep=0.5, decoding=lftr.ONLY(layer=2))
    assert not lftr.reductions(llava.model())


@pytest.mark.parametrize("name", ["blip_2", "instructblip", "mllama"])
def test_models_without_visual_tokens_in_their_layers(name: str) -> None:
    with pytest.raises(lftr.UnsupportedModelError, match="decoding = ONLY"):
        lftr.reduce(FAMILIES[name].model(), keep=0.5, decoding=lftr.ONLY())


@pytest.mark.parametrize("part", ["self_attn", "mlp"])
def test_a_model_that_computes_otherwise_is_refused(llava: ZooEntry, part: str) -> None:
    """Something behind the attention, or the last layer, that the steps would not repeat."""
    prompt = Prompt(llava, [SQUARE], fresh(llava))
    layers = language_model(prompt.model).layers
    changed = layers[0].self_attn if part == "self_attn" else layers[-1]
    changed.register_forward_hook(
        lambda _, args, output: (
            (output[0] * 1.5, *output[1:])
            if isinstance(output, tuple)
            else output * 1.5 + torch.arange(output.shape[-1])
        )
    )
    with (
        lftr.reduce(prompt.model, keep=0.5, decoding=lftr.ONLY()),
        pytest.raises(lftr.UnsupportedModelError, match="text-enhanced state is not known"),
    ):
        prompt.generate(1)
