"""What is measured is what it is called: parts, sizes, the limit; on every kind of host."""

from __future__ import annotations

import math
import sys

import pytest
import torch
import zoo

import lftr
from lftr import bundled, suites
from lftr.lab.asking.items import Question
from lftr.lab.asking.settings import Setting, full_model
from lftr.lab.evaluation import settings_grid
from lftr.lab.profiling import (
    Call,
    bench,
    count_sizes,
    prefill_flops,
    time_decode,
    time_prefill,
    time_settings,
)
from lftr.lab.profiling.limit import short_prompt
from lftr.lab.profiling.timing import Spread

HALF = Setting("half", lftr.get_method("uniform"), 0.5)
TEXT_AFTER = [[zoo.Image("square"), 4, 5]]


@pytest.fixture(scope="module")
def call():
    model, processor = bundled.load()
    examples = suites.load(n=2)
    return Call.of(model, processor, list(examples), label="two scenes")


@pytest.fixture(scope="module")
def rows(call):
    settings = settings_grid([lftr.get_method("lftr")], [1 / 16], ())
    steps = []
    found = bench([call], settings, rounds=2, decode=2, limit=True, step=steps.append)
    assert sum(steps) == len(found) * 3
    return found


def test_everything_that_is_timed_has_run_once_before(call, monkeypatch):
    ran = []
    monkeypatch.setattr(
        module := sys.modules["lftr.lab.profiling.bench"],
        "time_decode",
        lambda call, setting, tokens: ran.append(setting) or 1.0,
    )
    assert module.bench([call], [HALF], rounds=1)[0].decode == [1.0]
    assert ran == [HALF] * 2


def test_every_round_gives_every_part(rows):
    for row in rows:
        assert len(row.times.parts) == len(row.decode) == len(row.limit) == 2
        for part in row.times.parts:
            assert part.encoder > 0
            assert part.prefill > 0
            assert part.total == pytest.approx(
                part.encoder + part.method + part.host + part.prefill
            )
        assert all(math.isfinite(spread.median) for spread in row.ms.values())


def test_tokens_cache_and_operations_are_the_batch_s(rows):
    full, reduced = (row.sizes for row in rows)
    assert (full.tokens, full.kept, reduced.kept) == (1152, 1152, 72)
    assert full.columns - reduced.columns == 576 - 36
    # 7 layers, keys and values, 2 rows, 256 channels, 4 bytes
    assert full.kv_bytes == 7 * 2 * 2 * full.columns * 256 * 4
    assert reduced.kv_bytes == 7 * 2 * 2 * reduced.columns * 256 * 4
    assert full.peak_bytes > reduced.peak_bytes > reduced.kv_bytes
    for name in ("fastv", "gated", "true"):
        assert full.flops[name] > reduced.flops[name]
    config = bundled.load()[0].config
    assert reduced.flops["gated"] == 2 * prefill_flops(config, [reduced.columns] * 7, "gated")
    # the encoder and the method are in it
    assert reduced.flops["true"] > 10 * reduced.flops["gated"]


def test_a_row_against_itself_is_one(rows):
    full, reduced = rows
    assert all(spread.median == 1.0 for spread in full.faster_than(full).values())
    ratio = Spread.of_ratios(full.times.of("total"), reduced.times.of("total"))
    assert reduced.faster_than(full)["total"] == ratio


@torch.inference_mode()
def test_the_limit_is_the_plain_model_on_a_prompt_that_is_short(call):
    setting = Setting("lftr", lftr.get_method("lftr"), 1 / 16)
    short = short_prompt(call, setting)
    visual = (short["input_ids"] == call.model.config.image_token_id).sum(dim=1)
    assert visual.tolist() == [36, 36]
    assert "position_ids" not in short
    assert "pixel_values" not in short
    assert call.model(**short, logits_to_keep=1).logits.isfinite().all()


@torch.inference_mode()
def test_the_limit_of_a_merged_row_is_as_short(call):
    setting = Setting("merged", lftr.get_method("uniform"), 1.0, encoder=lftr.EncoderToMe(r=40))
    short = short_prompt(call, setting)
    visual = (short["input_ids"] == call.model.config.image_token_id).sum(dim=1)
    assert visual.tolist() == [376, 376]


def test_decoding_is_timed_without_the_prompt(call, monkeypatch):
    lengths = []
    forward = type(call.model.model.language_model).forward

    def slow_prompt(self, *args, **kwargs):
        lengths.append(kwargs["inputs_embeds"].shape[1])
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(type(call.model.model.language_model), "forward", slow_prompt)
    assert time_decode(call, HALF, 3) > 0
    assert lengths[1:] == [1, 1, 1]
    assert lengths[0] > 288


@pytest.mark.parametrize(
    "family", ["llava_next", "qwen2_5_vl", "qwen3_vl_moe", "gemma3", "blip_2", "mllama"]
)
def test_any_model_can_be_measured(family):
    entry = zoo.FAMILIES[family]
    model = entry.model()
    inputs = entry.inputs(model, entry.rows(TEXT_AFTER))
    inputs.pop("labels", None)
    call = Call(model, None, inputs, (Question([], ""),))
    full, half = (count_sizes(call, setting) for setting in (full_model(), HALF))
    assert half.kept < full.kept == full.tokens
    assert half.kv_bytes < full.kv_bytes
    assert 0 < half.flops["true"] < full.flops["true"]
    parts = time_prefill(call, HALF)
    assert min(parts.encoder, parts.method, parts.prefill) > 0
    assert time_decode(call, HALF, 2) > 0
    assert (short_prompt(call, HALF) is None) == (family in ("blip_2", "mllama"))


def test_text_guided_methods_are_given_the_question(call):
    seen = []

    class Listening(lftr.Method):
        evidence = (("text_token_embeds",),)

        def choose(self, tokens, keep):
            seen.append(tokens.text_token_embeds.shape[-2])
            return lftr.Selection.top(tokens.features.norm(dim=-1), keep)

    time_prefill(call, Setting("listening", Listening(), 8))
    assert seen
    assert min(seen) > 0


def test_layers_inside_the_model_are_counted_as_they_are(call):
    fastv = count_sizes(call, Setting("fastv", lftr.get_method("fastv"), 0.8))
    full = count_sizes(call, full_model())
    assert fastv.kept == fastv.tokens
    assert fastv.average <= 0.8 * fastv.tokens
    for name in ("fastv", "gated", "true"):
        assert fastv.flops[name] < full.flops[name]


def test_the_first_round_of_times_does_not_count(call):
    examples = list(suites.load(n=2))
    steps = []
    (times,) = time_settings(
        call.model, call.processor, examples, [HALF], step=lambda n: steps.append(n)
    )
    assert len(times.parts) == 2
    assert len(steps) == 3
    assert times.after_encoder.low <= times.after_encoder.median <= times.after_encoder.high


def test_spreads_are_medians_and_quartiles():
    assert Spread.of([3.0]) == Spread(3.0, 3.0, 3.0)
    assert Spread.of([1.0, 2.0, 3.0, 4.0, 5.0]) == Spread(3.0, 2.0, 4.0)
    assert Spread.of_ratios([2.0, 9.0], [1.0, 3.0]).median == 2.5
