"""`generate` keeps every one of its abilities."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from transformers import GenerationConfig

import lftr
from lftr.hosts.transformers.api import CallArguments, generation_setting

from .support import NEW, SQUARE, WIDE, Prompt, ZooEntry, assert_close, reduced


def tokens(prompt: Prompt, **options: Any) -> list[list[int]]:
    """What a reduced greedy generate adds to every row."""
    with lftr.reduce(prompt.model, "random", keep=0.4):
        return (
            prompt.generate(**options)
            .sequences[:, prompt.inputs()["input_ids"].shape[1] :]
            .tolist()
        )


SAME: dict[str, dict[str, Any]] = {
    "static_cache": {"cache_implementation": "static", "disable_compile": True},
    "no_cache": {"use_cache": False},
    "chunked_prefill": {"prefill_chunk_size": 7},
    "assisted": {"prompt_lookup_num_tokens": 2},
    "generation_config": {"generation_config": GenerationConfig(pad_token_id=0)},
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", SAME)
def test_same_tokens(entry: ZooEntry, name: str) -> None:
    if name in entry.traits.upstream:
        pytest.skip(entry.traits.upstream[name])
    prompt = Prompt(entry, [WIDE] if name == "assisted" else [WIDE, SQUARE])
    assert tokens(prompt, **SAME[name]) == tokens(prompt)


def test_assistant_model(entry: ZooEntry) -> None:
    if (reason := entry.traits.cannot("assistant_model")) is not None:
        pytest.skip(reason)
    prompt = Prompt(entry, [WIDE])
    assert tokens(prompt, assistant_model=entry.build(seed=1)) == tokens(prompt)


def test_beams(entry: ZooEntry) -> None:
    """Beams of a batch, with several images in a row, are those of each row alone."""
    prompt = Prompt(entry)
    together = tokens(prompt, num_beams=3)
    alone = [tokens(prompt.alone(row), num_beams=3)[0] for row in range(len(prompt.rows))]
    assert together == alone


def test_beams_are_the_best(llava: ZooEntry) -> None:
    """Beam search by brute force over the truth: every first and second token."""
    prompt = Prompt(llava, [WIDE])
    vocabulary = llava.model().config.text_config.vocab_size
    with reduced(prompt.model) as run:
        output = prompt.generate(2, num_beams=vocabulary, num_return_sequences=3)
        choices = run.choices()
    first = prompt.truth(0, choices)[0].log_softmax(-1)
    scores = {}
    for token in first.topk(40).indices.tolist():
        second = prompt.truth(0, choices, [token])[1].log_softmax(-1)
        scores |= {(token, i): float(first[token] + s) for i, s in enumerate(second.tolist())}
    best = sorted(scores, key=scores.__getitem__, reverse=True)[:3]
    assert [tuple(row) for row in output.sequences[:, -2:].tolist()] == best


def test_returned_sequences(entry: ZooEntry) -> None:
    prompt = Prompt(entry)
    greedy = tokens(prompt)
    repeated = tokens(prompt, num_return_sequences=2, do_sample=True, top_k=1)
    assert repeated == [row for row in greedy for _ in range(2)]


def test_sampling_follows_the_seed(llava: ZooEntry) -> None:
    """The same draws as plain `generate` makes on a prompt that is already short."""
    prompt = Prompt(llava, [WIDE])
    options = {"do_sample": True, "num_return_sequences": 3, "max_new_tokens": 6}
    with lftr.reduce(prompt.model, "random", keep=0.4) as reduction:
        short = reduction.prepare(**prompt.inputs())
        torch.manual_seed(1)
        found = prompt.model.generate(**prompt.inputs(), **options)
    torch.manual_seed(1)
    expected = prompt.model.generate(**short, **options)
    assert torch.equal(found[:, -6:], expected[:, -6:])
    assert len(set(map(tuple, found.tolist()))) > 1


class Collector:
    """A streamer that writes down what it is given."""

    def __init__(self) -> None:
        self.put_ids: list[list[int]] = []
        self.ended = False

    def put(self, value: torch.Tensor) -> None:
        self.put_ids.append(value.flatten().tolist())

    def end(self) -> None:
        self.ended = True


def test_streamer(entry: ZooEntry) -> None:
    prompt, streamer = Prompt(entry, [WIDE]), Collector()
    expected = tokens(prompt, streamer=streamer)[0]
    assert list(itertools.chain(*streamer.put_ids[1:])) == expected
    assert streamer.ended


@pytest.fixture
def defaults(llava: ZooEntry) -> Iterator[GenerationConfig]:
    """The configuration of llava's model, which a test may change."""
    model = llava.model()
    before, model.generation_config = model.generation_config, GenerationConfig()
    yield model.generation_config
    model.generation_config = before


@pytest.mark.parametrize("place", ["argument", "generation_config", "model", "argument beside it"])
def test_max_length(entry: ZooEntry, place: str) -> None:
    """Limits speak of the prompt that the caller sees."""
    prompt = Prompt(entry, [WIDE, SQUARE])
    inputs = prompt.inputs()
    limit = inputs["input_ids"].shape[1] + 3
    given: dict[str, Any] = {"do_sample": False}
    if place.startswith("argument"):
        given["max_length"] = limit
    if place == "argument beside it":
        given["generation_config"] = GenerationConfig(pad_token_id=0)
    elif place == "generation_config":
        given["generation_config"] = GenerationConfig(max_length=limit, pad_token_id=0)
    before = prompt.model.generation_config.max_length
    if place == "model":
        prompt.model.generation_config.max_length = limit
    try:
        with lftr.reduce(prompt.model, "random", keep=0.4):
            output = prompt.model.generate(**inputs, **given)
    finally:
        prompt.model.generation_config.max_length = before
    assert output.shape[1] == limit
    assert output[:, -3:].tolist() == [row[:3] for row in tokens(prompt)]


def test_what_a_configuration_leaves_open_is_as_the_model_has_it(
    llava: ZooEntry, defaults: GenerationConfig
) -> None:
    """generate fills up the options of a configuration that it is given with the model's own."""
    prompt = Prompt(llava, [WIDE, SQUARE])
    inputs = prompt.inputs()
    del inputs["attention_mask"]
    defaults.pad_token_id, defaults.max_length = 0, inputs["input_ids"].shape[1] + 3
    with lftr.reduce(prompt.model, "random", keep=0.4):
        output = prompt.model.generate(**inputs, generation_config=GenerationConfig(top_k=1))
    assert output.shape[1] == defaults.max_length
    assert output[:, -3:].tolist() == [row[:3] for row in tokens(prompt)]


@pytest.mark.parametrize("name", ["prefill_chunk_size", "guidance_scale"])
def test_what_is_refused_is_refused_in_the_models_configuration_too(
    llava: ZooEntry, defaults: GenerationConfig, name: str
) -> None:
    prompt = Prompt(llava, [WIDE])
    setattr(defaults, name, 7)
    given = {**prompt.inputs(), "generation_config": GenerationConfig(max_new_tokens=1)}
    with (
        lftr.reduce(prompt.model, ["random", "pyramiddrop"], keep=0.4),
        pytest.raises(lftr.LftrError, match=f"{name} = 7"),
    ):
        prompt.model.generate(**given)


def test_new_tokens_rule_a_length_out(llava: ZooEntry, defaults: GenerationConfig) -> None:
    """Where both are set, generate goes by the number of new tokens, however short the length."""
    prompt = Prompt(llava, [WIDE])
    inputs = prompt.inputs()
    defaults.max_new_tokens, length = 2, inputs["input_ids"].shape[1]
    with lftr.reduce(prompt.model, "random", keep=0.4):
        output = prompt.model.generate(**inputs, max_length=length - 1)
    assert output.shape[1] == length + 2


def test_an_option_that_is_gone_is_refused(llava: ZooEntry) -> None:
    """A new name would not be looked at, and what lftr refuses would be computed wrongly."""
    with pytest.raises(lftr.UnsupportedModelError, match="has no chunk_size"):
        generation_setting(llava.model(), CallArguments(), "chunk_size")


def test_min_length(llava: ZooEntry) -> None:
    prompt = Prompt(llava, [WIDE])
    first = tokens(prompt, new=1)[0][0]
    length = prompt.inputs()["input_ids"].shape[1]
    assert tokens(prompt, eos_token_id=first) == [[first]]

    def favour(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        scores[scores[:, first] > -torch.inf, first] = 1e9  # wherever it is not forbidden
        return scores

    longer = tokens(
        prompt, eos_token_id=first, min_length=length + 3, logits_processor=[favour], new=8
    )[0]
    assert first not in longer[:3]
    assert longer[3:] == [first]


@pytest.mark.parametrize("name", ["inputs", "positional", "input_ids"])
def test_ids_by_any_name(entry: ZooEntry, name: str) -> None:
    prompt = Prompt(entry, [WIDE])
    inputs = prompt.inputs()
    ids = inputs.pop("input_ids")
    args = (ids,) if name == "positional" else ()
    named = {} if args else {name: ids}
    with lftr.reduce(prompt.model, "random", keep=0.4):
        output = prompt.model.generate(*args, **named, **inputs, max_new_tokens=NEW)
    assert torch.equal(output[:, : ids.shape[1]], ids)
    assert output[:, -NEW:].tolist() == tokens(prompt)


@pytest.mark.parametrize("rows", [[WIDE], [WIDE, SQUARE]], ids=["single", "batch"])
def test_without_a_mask(entry: ZooEntry, rows: list[Any]) -> None:
    """generate infers padding from the ids, as the plain one does."""
    prompt = Prompt(entry, rows)
    inputs = prompt.inputs()
    del inputs["attention_mask"]
    with lftr.reduce(prompt.model, "random", keep=0.4):
        output = prompt.model.generate(**inputs, max_new_tokens=NEW, do_sample=False)
    assert output[:, -NEW:].tolist() == tokens(prompt)


def test_forward_without_a_mask(entry: ZooEntry) -> None:
    prompt = Prompt(entry, [WIDE])
    inputs = prompt.inputs()
    del inputs["attention_mask"]
    with reduced(prompt.model) as run:
        logits = prompt.model(**inputs).logits
    assert_close(entry, logits[0, -1], prompt.truth(0, run.choices())[0])
