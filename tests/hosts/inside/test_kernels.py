"""Kernels that take padding alone, and layers that have no attention at all."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, flash_attention_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

import lftr
from lftr.methods.inside.schedules import Exit, Skip

from ..oracle import full_positions, lengthened
from ..support import FAMILIES, NEW, PLAIN, SQUARE, WIDE, Prompt, assert_close
from .oracle import layers_of
from .support import Planned, methods_for


def flash_like(
    module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """Attention as FlashAttention's interface has it: padding as (B, S), causal from the end."""
    assert mask is None or mask.ndim == 2
    groups = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(groups, dim=1) for x in (key, value))
    seen = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool)
    seen = seen.tril(key.shape[2] - query.shape[2])[None, None]
    if mask is not None:
        seen = seen & mask.bool()[:, None, None]
    out = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=seen, scale=kwargs.get("scaling")
    )
    return out.transpose(1, 2).contiguous().nan_to_num(), None


@pytest.fixture
def flash() -> Iterator[str]:
    name = "flash_like"
    ALL_ATTENTION_FUNCTIONS.register(name, flash_like)
    ALL_MASK_ATTENTION_FUNCTIONS.register(name, flash_attention_mask)
    yield name
    for table in (ALL_ATTENTION_FUNCTIONS, ALL_MASK_ATTENTION_FUNCTIONS):
        del type(table)._global_mapping[name]


@pytest.mark.parametrize("kind", ["previous", "own", "merging", "exit"])
@pytest.mark.parametrize("family", ["llava", "llava_next", "qwen2_vl", "qwen3_vl", "internvl"])
def test_padding_alone(flash: str, family: str, kind: str) -> None:
    """The same answers as under SDPA, for a padded batch, rows of different counts."""
    entry = FAMILIES[family]
    expected = Prompt(entry, [WIDE, PLAIN, SQUARE])
    found = Prompt(entry, [WIDE, PLAIN, SQUARE], model=copy.deepcopy(entry.model()))
    found.model.config.get_text_config()._attn_implementation = flash
    outputs = []
    for prompt in (expected, found):
        with lftr.reduce(prompt.model, methods_for(entry)[kind]):
            outputs.append(prompt.generate())
    for row in range(3):
        left, right = (torch.stack([step[row] for step in one.logits]) for one in outputs)
        assert_close(entry, right, left, slack=3)


def test_frozen_needs_masks(flash: str) -> None:
    model = copy.deepcopy(FAMILIES["llava"].model())
    model.config.get_text_config()._attn_implementation = flash
    with pytest.raises(lftr.LftrError, match="frozen under FlashAttention"):
        lftr.reduce(model, Planned(Skip("frozen", layers=(1,))))


@pytest.mark.parametrize("layer", [1, 2, 3])
def test_exit_before_linear_attention(layer: int) -> None:
    """Later layers, linear ones among them, see a sequence of text alone."""
    entry = FAMILIES["qwen3_5"]
    prompt = Prompt(entry, [WIDE])
    with lftr.reduce(prompt.model, Planned(Exit(layer))):
        output = prompt.generate()
    new = output.sequences[0, -NEW:].tolist()
    inputs = prompt.inputs()
    longer, types = lengthened(prompt.model, inputs, new[:-1])
    places = full_positions(prompt.model, inputs, NEW - 1)
    text = torch.cat(
        [~prompt.visual(inputs["input_ids"][0]), torch.ones(NEW - 1, dtype=torch.bool)]
    )

    def cut(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        def mine(x: Any) -> Any:
            if isinstance(x, tuple):
                return tuple(map(mine, x))
            whole = isinstance(x, Tensor) and x.ndim > 1 and x.shape[1] == len(text)
            return x[:, text] if whole else x

        rest = {name: mine(x) for name, x in kwargs.items() if name != "attention_mask"}
        return tuple(map(mine, args)), {**rest, "attention_mask": None}

    handles = [
        one.register_forward_pre_hook(cut, with_kwargs=True)
        for one in layers_of(prompt.model)[layer:]
    ]
    try:
        call = longer | types | {"position_ids": places, "use_cache": False, "logits_to_keep": NEW}
        expected = prompt.model.forward(**call).logits[0]
    finally:
        for handle in handles:
            handle.remove()
    assert_close(entry, torch.stack([step[0] for step in output.logits]), expected)
