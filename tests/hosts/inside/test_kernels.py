"""Kernels that take padding alone, and layers that have no attention at all."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

import lftr
from lftr.methods import FastV
from lftr.methods.inside.schedules import Exit, Skip

from ..oracle import full_positions, lengthened
from ..support import FAMILIES, NEW, PLAIN, SQUARE, WIDE, Image, Prompt, assert_close
from .oracle import layers_of
from .support import Planned, methods_for


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


@pytest.mark.parametrize(
    "kind", ["previous", "own", "exit", "before", "both", "weights", "merging"]
)
@pytest.mark.parametrize("side", ["one row", "padded"])
def test_a_second_turn_with_gaps(flash: str, kind: str, side: str) -> None:
    """What was dropped leaves gaps in the positions, which are no borders."""
    entry, answers = FAMILIES["llava"], []
    for implementation in ("sdpa", flash):
        model = copy.deepcopy(entry.model())
        model.config.get_text_config()._attn_implementation = implementation
        rows = [WIDE] if side == "one row" else [WIDE, SQUARE]
        prompt = Prompt(entry, rows, model=model)
        inside = methods_for(entry).get(kind, methods_for(entry)["exit"])
        methods: Any = {
            "before": "random",
            "both": ["random", inside],
            "weights": ["lftr", inside],
        }.get(kind, inside)
        options = {"keep": 0.5} if kind in ("before", "both", "weights") else {}
        with lftr.reduce(model, methods, **options):
            first = prompt.generate(new=2)
            new = Image("tall", 4)
            more = torch.tensor([[20, 21, *entry.image_ids(model, new), 22]] * len(rows))
            ids = torch.cat([first.sequences, more], dim=1)
            mask = torch.ones_like(ids)
            mask[:, : prompt.inputs()["attention_mask"].shape[1]] = prompt.inputs()[
                "attention_mask"
            ]
            pixels = entry.inputs(model, [[2, new]] * len(rows))["pixel_values"]
            second = model.generate(
                input_ids=ids,
                attention_mask=mask,
                pixel_values=pixels,
                past_key_values=first.past_key_values,
                max_new_tokens=2,
                do_sample=False,
                output_logits=True,
                return_dict_in_generate=True,
            )
        answers.append(torch.stack(second.logits, dim=1))
    assert_close(entry, answers[1], answers[0], slack=3)


@pytest.mark.parametrize("family", ["aya_vision", "exaone4_5", "step3p7"])
def test_windows_of_flash_attention(flash: str, family: str) -> None:
    """They count the tokens that are left, and the report says so; elsewhere all is as in SDPA."""
    entry = FAMILIES[family]
    for implementation in ("sdpa", flash):
        prompt = Prompt(entry, [WIDE], model=copy.deepcopy(entry.model()))
        prompt.model.config.get_text_config()._attn_implementation = implementation
        sliding = [i for i, layer in enumerate(layers_of(prompt.model)) if slides(layer)]
        assert len(sliding) > 1
        for first in sliding[1:]:
            with lftr.reduce(prompt.model, FastV(layer=first, keep=0.5)) as reduction:
                prompt.generate(1)
            cut = [
                i for i, n in enumerate(reduction.report.layers) if n.tokens < reduction.report.kept
            ]
            said = ", ".join(str(i) for i in cut if i in sliding)
            notes = [note for note in reduction.report.notes if "sliding window" in note]
            assert len(notes) == bool(said and implementation == flash)
            assert all(note.startswith(f"layers {said} attend") for note in notes)


def slides(layer: Any) -> bool:
    return getattr(layer.self_attn, "sliding_window", None) is not None


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
