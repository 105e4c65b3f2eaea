"""What a method is shown is what the plain model's eager attention says."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import lftr
from lftr.evidence.attention import attention_modules
from lftr.hosts.transformers.families import family_of
from lftr.methods.inside.base import LayerView
from lftr.methods.inside.schedules import Exit, Step

from ..support import PLAIN, SQUARE, WIDE, Prompt, ZooEntry
from .support import EVERY_MASKED, MASKED, Own, first_layer


class Looking(lftr.LayerMethod):
    """Drops nothing; keeps what the last token and the text after the image pay to the image."""

    schedule = Exit(1.0)

    def __init__(self, reads: str) -> None:
        self.reads = reads  # type: ignore[misc, assignment]
        self.seen: list[dict[int, tuple[Tensor, int, int]]] = []

    def watches(self, depth: int) -> frozenset[int]:
        return frozenset(range(1, depth))

    def count(self, view: LayerView, planned: int) -> int:
        if view.layer == 1:
            self.seen.append({})
        row = (
            self.seen[-1] if view.layer == 1 else next(r for r in self.seen if view.layer not in r)
        )
        row[view.layer] = view.received(view.last), len(view.states), int(view.text[0])
        return planned


@pytest.mark.parametrize("reads", ["previous", "own"])
@pytest.mark.parametrize("entry", EVERY_MASKED, ids=str)
@pytest.mark.parametrize("side", ["left", "right"])
def test_attention_of_the_last_token(entry: ZooEntry, reads: str, side: str) -> None:
    ability = "right_padding" if side == "right" else "batch_forward"
    if ability in entry.traits.upstream:
        pytest.skip(entry.traits.upstream[ability])
    prompt, method = Prompt(entry, [WIDE, PLAIN, SQUARE]), Looking(reads)
    with lftr.reduce(prompt.model, method):
        prompt.forward(side=side)
    rows = [
        row
        for row in range(len(prompt.rows))
        if prompt.entry.row_counts(prompt.model, prompt.rows[row])
    ]
    assert len(method.seen) == len(rows)
    for row, seen in zip(rows, method.seen, strict=True):
        alone = Prompt(entry, [prompt.rows[row]], model=entry.model("eager"))
        maps = alone.model(**alone.inputs(), output_attentions=True).attentions
        visual = alone.visual(alone.inputs()["input_ids"])[0]
        for layer, (received, length, text) in seen.items():
            expected = maps[layer - (reads == "previous")][0, :, -1].mean(dim=0)[visual]
            assert torch.allclose(received, expected, rtol=1e-4, atol=1e-5 * float(expected.max()))
            assert length == len(visual)
            assert text == int((~visual & (visual.cumsum(0) > 0)).nonzero()[0])


@pytest.mark.parametrize("entry", MASKED, ids=str)
def test_reading_ahead_projects_one_query_a_row(entry: ZooEntry) -> None:
    """Queries and values of all rows are computed once, by the layer itself, where it can."""
    prompt = Prompt(entry, [WIDE, SQUARE])
    layer: Any = family_of(prompt.model).decoder(prompt.model).layers[first_layer(entry)]
    attention = attention_modules(layer)[0]
    names = [name for name in ("q_proj", "k_proj", "v_proj") if getattr(attention, name, None)]
    if "q_proj" not in names:
        pytest.skip(f"{type(attention).__name__} has no projection of queries alone")
    widths: dict[str, list[int]] = {name: [] for name in names}
    handles = [
        getattr(attention, name).register_forward_pre_hook(
            lambda _, args, name=name: widths[name].append(args[0].shape[1])
        )
        for name in names
    ]
    with lftr.reduce(prompt.model, Own(Step(first_layer(entry), 1))):
        prompt.forward()
    for handle in handles:
        handle.remove()
    before, after = prompt.inputs()["input_ids"].shape[1], widths["q_proj"][-1]
    assert after < before
    assert widths.pop("k_proj", [before, after]) == [before, after]
    assert all(found == [1, after] for found in widths.values())
