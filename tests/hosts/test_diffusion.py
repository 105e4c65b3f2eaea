"""DiffusionGemma: a reduced prompt is what its encoder caches, and every denoising step sees it.

The truth is the plain model's own ``generate`` on ids without placeholders: hooks of this file put
the gathered embeddings at their positions into its encoder, and nothing else. Sampling draws from
torch's generator, which both runs begin alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from zoo import DIFFUSION, Image, Row

import lftr
from lftr.hosts.transformers.api import CallArguments
from lftr.methods.inside.schedules import Exit, Skip, Stages, Step
from lftr.values.errors import ArgumentError, LftrError, UnsupportedModelError

from .inside.oracle import Recorder, Truth, Turn
from .inside.support import Merging, Own, Planned, Previous
from .oracle import Choice
from .support import Prompt, distance, reduced

ROWS: list[Row] = [[3, Image("wide"), 4, Image("small", 1), 5], [6], [2, Image("square", 2), 3]]
STEPS = {"max_denoising_steps": 4, "max_new_tokens": 16, "eos_token_id": None}
"""Two blocks; nothing ends before."""


class Drafts:
    """A streamer that keeps the logits of every denoising step."""

    _takes_logits = True

    def __init__(self) -> None:
        self.logits: list[Tensor] = []

    def put(self, value: Tensor) -> None: ...

    def end(self) -> None: ...

    def put_draft(self, logits: Tensor) -> None:
        self.logits.append(logits)


def prompt_of(*rows: Row) -> Prompt:
    return Prompt(DIFFUSION, list(rows))


def generate(model: Any, inputs: dict[str, Any], **options: Any) -> tuple[Any, Tensor]:
    """What is generated, and the logits of every step, `(steps, B, C, V)`."""
    drafts = Drafts()
    torch.manual_seed(0)
    output = model.generate(**inputs, streamer=drafts, **{**STEPS, **options})
    return output, torch.stack(drafts.logits)


def handed_over(model: Any, inputs: dict[str, Any]) -> Tensor:
    """The embeddings that the plain encoder gives its language model for a prompt."""
    seen: list[Tensor] = []
    part = model.base_model.encoder.language_model
    handle = part.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["inputs_embeds"]), with_kwargs=True
    )
    with torch.no_grad():
        model.base_model.encoder(**inputs)
    handle.remove()
    return seen[0]


@contextmanager
def feeding(model: Any, embeds: Tensor, places: Tensor, behind: int) -> Iterator[None]:
    """Put embeddings and positions into the plain model's prompt; what follows is behind."""
    begins = [True]

    def encode(module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        if begins:
            begins.clear()
            return args, {**kwargs, "inputs_embeds": embeds, "position_ids": places}
        return args, {**kwargs, "position_ids": kwargs["position_ids"] + behind}

    def denoise(module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        return args, {**kwargs, "decoder_position_ids": kwargs["decoder_position_ids"] + behind}

    parts = model.base_model
    handles = [
        parts.encoder.language_model.register_forward_pre_hook(encode, with_kwargs=True),
        parts.decoder.register_forward_pre_hook(denoise, with_kwargs=True),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def kept(
    prompt: Prompt, choices: Sequence[Choice], positions: str = "original"
) -> Iterator[dict[str, Any]]:
    """The plain model's arguments for what one row keeps, while they mean that."""
    inputs = prompt.inputs()
    ids = inputs["input_ids"]
    visual = prompt.visual(ids[0])
    embeds = handed_over(prompt.model, inputs)
    keep = ~visual
    keep[visual] = torch.cat([choice.anchors for choice in choices])
    parts = embeds[0, visual].split([choice.size for choice in choices])
    merged = [choice.spread(part) for choice, part in zip(choices, parts, strict=True)]
    embeds[0, visual] = torch.cat(merged)
    index = keep.nonzero().squeeze(1)
    original = positions == "original"
    places = index if original else torch.arange(len(index))
    behind = ids.shape[1] - len(index) if original else 0
    with feeding(prompt.model, embeds[:, index], places[None], behind):
        yield {
            "input_ids": ids.masked_fill(visual, 20)[:, index],
            "attention_mask": inputs["attention_mask"][:, index],
            "mm_token_type_ids": inputs["mm_token_type_ids"][:, index],
        }


def truth(
    prompt: Prompt, choices: Sequence[Choice], positions: str = "original", **options: Any
) -> tuple[Tensor, Tensor]:
    """The new tokens and the logits of the plain model on what one row keeps."""
    with kept(prompt, choices, positions) as inputs:
        output, logits = generate(prompt.model, inputs, **options)
    return output.sequences[0, inputs["input_ids"].shape[1] :], logits


@pytest.mark.parametrize("positions", ["original", "compact"])
@pytest.mark.parametrize("row", [ROWS[0], ROWS[2], [4, Image("tall", 3)]], ids=str)
@pytest.mark.parametrize("method", ["random", "lftr", "tome"])
def test_every_step_of_every_block(row: Row, positions: str, method: str) -> None:
    prompt = prompt_of(row)
    with reduced(prompt.model, method, positions=positions) as run:
        output, logits = generate(prompt.model, prompt.inputs())
    assert run.report.kept < run.report.tokens
    assert run.report.received == run.report.prompt - run.report.tokens + run.report.kept
    ids = prompt.inputs()["input_ids"]
    assert torch.equal(output.sequences[:, : ids.shape[1]], ids)
    new, expected = truth(prompt, run.choices(), positions)
    assert len(expected) > 2 * 2  # both blocks took several steps
    assert distance(logits, expected) < 1e-4
    assert torch.equal(output.sequences[0, ids.shape[1] :], new)


def test_the_truth_tells_choices_and_positions_apart() -> None:
    prompt = prompt_of(ROWS[0])
    with reduced(prompt.model) as run:
        _, logits = generate(prompt.model, prompt.inputs())
    choices = run.choices()
    _, full = generate(prompt.model, prompt.inputs())
    with reduced(prompt.model, "uniform"):
        _, other = generate(prompt.model, prompt.inputs())
    _, compact = truth(prompt, choices, "compact")
    for wrong in (full, other, compact):
        assert distance(wrong[0], logits[0]) > 1e-3


def test_a_batch_is_its_rows() -> None:
    """The first step's logits: what is sampled after it depends on the batch's draws."""
    prompt = prompt_of(*ROWS)
    ids = prompt.inputs()["input_ids"]
    canvas = torch.arange(20, 28).expand(len(ROWS), -1)
    with reduced(prompt.model) as run:
        output, together = generate(prompt.model, prompt.inputs(), decoder_input_ids=canvas)
        assert torch.equal(output.sequences[:, : ids.shape[1]], ids)
        for row in range(len(ROWS)):
            alone = prompt.alone(row)
            _, single = generate(prompt.model, alone.inputs(), decoder_input_ids=canvas[:1])
            assert distance(together[0, row], single[0, 0]) < 1e-4
    assert run.report.kept <= run.report.tokens


@pytest.mark.parametrize("rows", [ROWS, [ROWS[0]]], ids=["batch", "single"])
def test_all_tokens_kept_is_the_plain_model(rows: list[Row]) -> None:
    prompt = prompt_of(*rows)
    plain, expected = generate(prompt.model, prompt.inputs())
    with reduced(prompt.model, keep=1.0) as run:
        found, logits = generate(prompt.model, prompt.inputs())
    assert torch.equal(found.sequences, plain.sequences)
    assert torch.equal(logits, expected)
    assert run.report.kept == run.report.tokens > 0


@pytest.mark.parametrize("positions", ["original", "compact"])
def test_a_step_of_ones_own(positions: str) -> None:
    """`forward`: prompt and canvas together, then the canvas alone beside the returned cache."""
    prompt = prompt_of(ROWS[0])
    inputs, canvas = prompt.inputs(), torch.arange(20, 28)[None]
    length = inputs["input_ids"].shape[1]
    mask = torch.ones(1, length + canvas.shape[1], dtype=torch.long)
    with reduced(prompt.model, positions=positions) as run, torch.no_grad():
        given = {"decoder_input_ids": canvas, "decoder_attention_mask": mask}
        together = prompt.model(**inputs, **given)
        cache = together.past_key_values
        assert run.report.received == cache.get_seq_length() < length
        alone = prompt.model(past_key_values=cache, **given)
    assert distance(together.logits, alone.logits) < 1e-5
    with kept(prompt, run.choices(), positions) as shorter, torch.no_grad():
        end = shorter["input_ids"].shape[1]
        places = torch.arange(end, end + canvas.shape[1])[None]
        given = {"decoder_input_ids": canvas, "decoder_position_ids": places}
        expected = prompt.model(**shorter, **given).logits
    assert distance(together.logits, expected) < 1e-4


def test_a_second_turn() -> None:
    """The last block is not cached; it comes back with the next question and a new image."""
    prompt = prompt_of([3, Image("wide"), 2])
    model, entry = prompt.model, prompt.entry
    with reduced(model) as run:
        output, _ = generate(model, prompt.inputs())
        choices = run.choices()
        cache = output.past_key_values
        known = output.sequences.shape[1] - entry.canvas
        image = Image("square", 5)
        said = [*output.sequences[0, known:].tolist(), 21, *entry.image_ids(model, image), 22]
        canvas = torch.arange(20, 28)[None]
        second = entry.batch(model, [said], [[image]])
        del second["attention_mask"]
        whole = entry.batch(model, [[*output.sequences[0].tolist(), 21]], [[]])
        with pytest.raises(ArgumentError, match="the ids that are not in the cache"):
            generate(model, whole, past_key_values=cache)
        again, logits = generate(
            model, second, decoder_input_ids=canvas, past_key_values=cache, max_new_tokens=8
        )
        choices += run.choices()
        assert again.sequences[0, : len(said)].tolist() == said
    long = Prompt(entry, [[0]], model)
    whole = entry.batch(
        model, [[*output.sequences[0, :known].tolist(), *said]], [[Image("wide"), image]]
    )
    object.__setattr__(long, "inputs", lambda: whole)
    _, expected = truth(long, choices, decoder_input_ids=canvas, max_new_tokens=8)
    assert distance(logits[0], expected[0]) < 1e-4


@pytest.mark.parametrize("positions", ["original", "compact"])
def test_a_static_cache(positions: str) -> None:
    prompt = prompt_of(ROWS[0])
    options: dict[str, Any] = {"cache_implementation": "static", "disable_compile": True}
    with reduced(prompt.model, positions=positions) as run:
        _, logits = generate(prompt.model, prompt.inputs(), **options)
    _, expected = truth(prompt, run.choices(), positions, **options)
    assert distance(logits, expected) < 1e-4
    del prompt.model._cache


def test_a_compiled_decoder_takes_no_hooks() -> None:
    prompt = prompt_of(ROWS[0])
    with reduced(prompt.model), pytest.raises(UnsupportedModelError, match="disable_compile"):
        generate(prompt.model, prompt.inputs(), cache_implementation="static")


def test_a_decoder_without_hooks_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would denoise at positions of the shorter prompt."""
    prompt = prompt_of(ROWS[0])
    decoder = type(prompt.model.base_model.decoder)
    monkeypatch.setattr(
        decoder, "__call__", lambda self, *args, **given: self.forward(*args, **given)
    )
    with (
        reduced(prompt.model),
        pytest.raises(LftrError, match="without lftr's hook on the decoder"),
    ):
        generate(prompt.model, prompt.inputs())
    with reduced(prompt.model, positions="compact"):
        generate(prompt.model, prompt.inputs())


def test_callbacks_see_the_callers_prompt() -> None:
    prompt = prompt_of(ROWS[0])
    length = prompt.inputs()["input_ids"].shape[1]
    seen: list[int] = []

    def count(ids: Tensor, scores: Tensor, cur_step: Any) -> Tensor:
        seen.append(ids.shape[1])
        return scores

    with reduced(prompt.model):
        generate(prompt.model, prompt.inputs(), logits_processor=[count])
    assert set(seen) == {length, length + prompt.entry.canvas}


def test_leaving_restores_the_model() -> None:
    prompt = prompt_of(ROWS[0])
    plain, expected = generate(prompt.model, prompt.inputs())
    with lftr.reduce(prompt.model, "random", keep=0.3):
        generate(prompt.model, prompt.inputs())
    again, logits = generate(prompt.model, prompt.inputs())
    assert torch.equal(again.sequences, plain.sequences)
    assert torch.equal(logits, expected)
    parts = prompt.model.base_model
    assert not parts.encoder._forward_pre_hooks
    assert not parts.decoder._forward_pre_hooks


# ---- inside the language model -----------------------------------------------------------------

INSIDE: dict[str, lftr.LayerMethod] = {
    "previous": Previous(Stages((1, 2), (0.6, 0.3))),
    "own": Own(Step(1, 0.4)),
    "merging": Merging(Step(2, 0.4)),
    "exit": Planned(Exit(1)),
    "bypassed": Planned(Skip("bypassed", layers=(1,))),
    "frozen": Planned(Skip("frozen", layers=(3,))),
}


@contextmanager
def hiding(prompt: Prompt, recorder: Recorder) -> Iterator[None]:
    """The plain model, each layer of its encoder and decoder blind to what is gone from it."""
    inputs = prompt.inputs()
    length = inputs["input_ids"].shape[1]
    columns = prompt.visual(inputs["input_ids"][0]).nonzero().squeeze(1)
    turn = Turn(columns, recorder.said)
    parts = prompt.model.base_model
    states = recorder.schedule.states(len(parts.decoder.layers))
    of_encoder = Truth(prompt.model, inputs, [turn], states, exponent=0.0)

    def blind(number: int) -> Any:
        gone = torch.zeros(length, dtype=torch.bool)
        gone[columns] = True
        gone[turn.alive(number)] = states[number] == "bypassed"

        def enter(module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
            cache, count = kwargs[CallArguments.name("cache")], args[0].shape[1]
            total, keys = cache.get_seq_length(), cache.layers[number].keys.shape[-2]
            hidden = torch.cat([gone, torch.zeros(total - length + count, dtype=torch.bool)])
            mask = ~hidden[total - keys :].expand(1, 1, count, -1)
            return args, {**kwargs, "attention_mask": mask}

        return enter

    with ExitStack() as stack:
        for number, (reading, writing) in enumerate(
            zip(parts.encoder.language_model.layers, parts.decoder.layers, strict=True)
        ):
            prefill = of_encoder._hooks(number, length)
            first = [True]

            def once(hook: Any, flag: list[bool]) -> Any:
                """Later blocks are whole, and see what the prompt's part of the cache has left."""

                def run(module: Any, args: Any, *rest: Any) -> Any:
                    return hook(module, args, *rest) if flag[0] else None

                return run

            def over(module: Any, args: Any, output: Any, flag: list[bool] = first) -> None:
                flag[0] = False

            enter = once(prefill[0], first)
            stack.callback(reading.register_forward_pre_hook(enter, with_kwargs=True).remove)
            stack.callback(reading.register_forward_hook(once(prefill[1], first)).remove)
            stack.callback(reading.register_forward_hook(over).remove)
            hook = writing.register_forward_pre_hook(blind(number), with_kwargs=True)
            stack.callback(hook.remove)
        yield


@pytest.mark.parametrize("kind", INSIDE)
def test_inside_the_encoder_and_seen_by_the_decoder(kind: str) -> None:
    """One block: the plain model's later blocks would be encoded beside what this one hides."""
    prompt = prompt_of(ROWS[0])
    recorder = Recorder(INSIDE[kind])
    options = {"max_new_tokens": 8}
    with lftr.reduce(prompt.model, recorder) as reduction:
        output, logits = generate(prompt.model, prompt.inputs(), **options)
    assert len(reduction.report.layers) == 4
    with hiding(prompt, recorder):
        expected, truth_logits = generate(prompt.model, prompt.inputs(), **options)
    assert distance(logits, truth_logits) < 1e-4
    assert torch.equal(output.sequences, expected.sequences)
    _, plain = generate(prompt.model, prompt.inputs(), **options)
    # frozen tokens have their keys in the last layer, the only one without a window, as ever
    assert (distance(plain[0], logits[0]) > 1e-3) != (kind == "frozen")


@pytest.mark.parametrize("kind", INSIDE)
def test_a_batch_inside_is_its_rows(kind: str) -> None:
    prompt = prompt_of(*ROWS)
    canvas = torch.arange(20, 28).expand(len(ROWS), -1)
    with lftr.reduce(prompt.model, INSIDE[kind]):
        _, together = generate(prompt.model, prompt.inputs(), decoder_input_ids=canvas)
        for row in range(len(ROWS)):
            alone = prompt.alone(row).inputs()
            _, single = generate(prompt.model, alone, decoder_input_ids=canvas[:1])
            assert distance(together[0, row], single[0, 0]) < 1e-4


def test_inside_beside_a_static_cache_is_refused() -> None:
    prompt = prompt_of(ROWS[0])
    options: dict[str, Any] = {"cache_implementation": "static", "disable_compile": True}
    with (
        lftr.reduce(prompt.model, INSIDE["previous"]),
        pytest.raises(UnsupportedModelError, match="static cache"),
    ):
        generate(prompt.model, prompt.inputs(), **options)
    del prompt.model._cache


def test_frozen_tokens_would_fall_out_of_a_window() -> None:
    prompt = prompt_of(ROWS[0])
    with (
        lftr.reduce(prompt.model, Planned(Skip("frozen", layers=(1,)))),
        pytest.raises(UnsupportedModelError, match="sliding window"),
    ):
        generate(prompt.model, prompt.inputs())
