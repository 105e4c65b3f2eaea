"""Formulas against what runs, and against hand-written arithmetic."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3MoeConfig

from lftr import bundled
from lftr.lab.profiling import CONVENTIONS, counted, prefill_flops
from lftr.values.errors import ArgumentError, UnsupportedModelError

SIZES = {"hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 3, "vocab_size": 50}


def llama(keys: int) -> LlamaConfig:
    return LlamaConfig(**SIZES, num_attention_heads=4, num_key_value_heads=keys)


def run(config: LlamaConfig, columns: int, attention: str = "sdpa") -> int:
    model = LlamaForCausalLM._from_config(config, attn_implementation=attention).eval()
    with torch.inference_mode(), counted() as counter:
        model.model(torch.randint(0, 50, (1, columns)))
    return counter.get_total_flops()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("keys", [4, 2, 1])
def test_true_is_what_runs_whatever_the_number_of_key_heads(keys, attention):
    config = llama(keys)
    assert prefill_flops(config, [37] * 3, "true") == run(config, 37, attention)


def test_gated_is_half_of_what_runs_with_as_many_key_heads_as_query_heads():
    assert 2 * prefill_flops(llama(4), [37] * 3, "gated") == run(llama(4), 37)


def test_fastv_is_the_paper_s_formula():
    n, d, m = 37, 64, 160
    expected = 3 * (4 * n * d**2 + 2 * n**2 * d + 2 * n * d * m)
    assert prefill_flops(llama(1), [n] * 3, "fastv") == expected


@torch.inference_mode()
def test_true_is_what_the_bundled_decoder_runs():
    model, _ = bundled.load()
    with counted() as counter:
        model.model.language_model(inputs_embeds=torch.randn(1, 100, 256))
    assert prefill_flops(model.config, [100] * 7, "true") == counter.get_total_flops()


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_layers_with_fewer_tokens_cost_what_they_cost_alone(convention):
    one, two, three = ([n] * 3 for n in (40, 20, 10))
    each = [prefill_flops(llama(2), counts, convention) // 3 for counts in (one, two, three)]
    assert prefill_flops(llama(2), [40, 20, 10], convention) == sum(each)


def test_the_configuration_of_a_whole_model_will_do():
    config = bundled.load()[0].config
    own = prefill_flops(config.text_config, [9] * 7, "gated")
    assert prefill_flops(config, [9] * 7, "gated") == own


def test_what_the_formulas_do_not_describe_is_refused():
    with pytest.raises(ArgumentError, match="allowed: 'fastv', 'gated', 'true'"):
        prefill_flops(llama(1), [1] * 3, "macs")
    with pytest.raises(ArgumentError, match="each of the 3 layers"):
        prefill_flops(llama(1), [1] * 2, "true")
    with pytest.raises(UnsupportedModelError, match="mixture of experts"):
        prefill_flops(Qwen3MoeConfig(), [1] * 24, "true")


def test_convolutions_and_attention_on_a_cpu_are_counted():
    query = torch.randn(1, 2, 8, 4)
    with torch.inference_mode(), counted() as counter:
        torch.nn.functional.scaled_dot_product_attention(query, query, query)
    assert counter.get_total_flops() == 2 * 2 * 2 * 8 * 8 * 4
