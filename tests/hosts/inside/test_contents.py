"""What views show besides states: places, values, unrotated keys, passages through parts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lftr
from lftr.evidence.attention import attention_modules
from lftr.hosts.items import ReductionPlan
from lftr.hosts.transformers.families import base, family_of
from lftr.hosts.transformers.layers.heads import no_rotation
from lftr.hosts.transformers.layers.host import LayerHost
from lftr.methods.inside.base import LayerView
from lftr.methods.inside.schedules import Exit
from lftr.values.report import Report

from ..support import FAMILIES, PLAIN, SQUARE, WIDE, Prompt, Recording, ZooEntry
from .oracle import layers_of
from .support import EVERY_MASKED, MASKED, Planned, depth, first_layer

entries = pytest.mark.parametrize("entry", MASKED, ids=str)


class Seeing(lftr.LayerMethod):
    """Drops nothing, and keeps every view with what it locates."""

    schedule = Exit(1.0)

    def __init__(self, reads: str = "nothing", follows: bool = False) -> None:
        self.reads = reads  # type: ignore[misc, assignment]
        self.follows = follows  # type: ignore[misc]
        self.views: list[LayerView] = []

    def watches(self, depth: int) -> frozenset[int]:
        return frozenset(range(1, depth))

    def observe(self, view: LayerView) -> None:
        self.views.append(view)

    def of_row(self, row: int) -> list[LayerView]:
        """The views of one row with visual tokens, layer by layer."""
        rows = len([view for view in self.views if view.layer == 1])
        return self.views[row::rows]


@contextmanager
def kept(modules: dict[Any, nn.Module]) -> Iterator[dict[Any, tuple[Tensor, Tensor]]]:
    """The input and the output of modules in their last call, by hooks of this file's own."""
    calls: dict[Any, tuple[Tensor, Tensor]] = {}

    def note(key: Any) -> Any:
        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            entered = args[0] if args else kwargs["hidden_states"]
            calls[key] = entered, output[0] if isinstance(output, tuple) else output

        return hook

    with ExitStack() as stack:
        for key, module in modules.items():
            stack.callback(module.register_forward_hook(note(key), with_kwargs=True).remove)
        yield calls


def visual_rows(prompt: Prompt) -> list[int]:
    return [r for r, row in enumerate(prompt.rows) if prompt.entry.row_counts(prompt.model, row)]


@pytest.mark.parametrize("entry", EVERY_MASKED, ids=str)
def test_places_are_those_that_methods_before_see(entry: ZooEntry) -> None:
    prompt, before, seeing = Prompt(entry, [WIDE, PLAIN, SQUARE]), Recording("random"), Seeing()
    with lftr.reduce(prompt.model, [before, seeing], keep=0.4) as reduction:
        prompt.forward(side="left")
    decided = list(zip(reduction.report.items, before.tokens, before.selections, strict=True))
    for number, row in enumerate(visual_rows(prompt)):
        blocks: list[tuple[int, int]] = []
        places = []
        for item, tokens, choice in decided:
            if item.row != row:
                continue
            marks = torch.zeros(tokens.count, dtype=torch.bool)
            marks = marks if tokens.separator is None else tokens.separator
            whole = torch.full((tokens.count, 3), -1)
            whole[~marks] = tokens.coordinates + torch.tensor([len(blocks), 0, 0])
            places.append(whole[choice.index])
            blocks += [(high, wide) for frames, high, wide in tokens.blocks for _ in range(frames)]
        views = seeing.of_row(number)
        assert len(views) == depth(entry) - 1
        for view in views:
            assert view.places.blocks == tuple(blocks)
            assert view.places.coordinates.equal(torch.cat(places))


def test_places_of_the_tokens_that_are_left() -> None:
    prompt, seeing = Prompt(FAMILIES["qwen2_5_vl"], [WIDE]), Seeing()
    dropping = lftr.get_method("fastv", layer=2, keep=0.3)
    with lftr.reduce(prompt.model, [dropping, seeing]):
        prompt.forward()
    first, last = seeing.views[0], seeing.views[-1]
    left = torch.isin(first.columns[first.visual], last.columns[last.visual])
    assert 0 < left.sum() < len(left)
    assert last.places.coordinates.equal(first.places.coordinates[left])


def test_unknown_places_are_refused() -> None:
    prompt, seeing = Prompt(FAMILIES["llava"], [WIDE]), Seeing()
    with lftr.reduce(prompt.model, seeing) as reduction:
        prompt.model(**reduction.prepare(**prompt.inputs()))
    with pytest.raises(lftr.LftrError, match=r"unknown for .* after lftr\.prepare"):
        _ = seeing.views[0].places


@entries
@pytest.mark.parametrize("side", ["left", "right"])
def test_text_asks_in_the_layer_to_come(entry: ZooEntry, side: str) -> None:
    if side == "right" and "right_padding" in entry.traits.upstream:
        pytest.skip(entry.traits.upstream["right_padding"])
    prompt, seeing = Prompt(entry, [WIDE, PLAIN, SQUARE]), Seeing("own text")
    with lftr.reduce(prompt.model, seeing):
        prompt.forward(side=side)
    for number, row in enumerate(visual_rows(prompt)):
        alone = Prompt(entry, [prompt.rows[row]], model=entry.model("eager"))
        maps = alone.model(**alone.inputs(), output_attentions=True).attentions
        for view in seeing.of_row(number):
            assert len(view.text) > 1
            wanted = maps[view.layer][0][:, view.text].mean(dim=(0, 1))[view.visual]
            received = view.received(view.text)
            size = float(wanted.max())
            torch.testing.assert_close(received, wanted, rtol=1e-4, atol=1e-5 * size)


@entries
def test_values_are_those_of_the_previous_layer(entry: ZooEntry) -> None:
    prompt, seeing = Prompt(entry, [WIDE, SQUARE]), Seeing("previous")
    with lftr.reduce(prompt.model, seeing):
        prompt.forward()
    for number, row in enumerate(visual_rows(prompt)):
        alone = prompt.alone(row)
        attentions = [attention_modules(layer)[0] for layer in layers_of(prompt.model)]
        plain = {i: getattr(one, "v_proj", None) for i, one in enumerate(attentions)}
        if None in plain.values() or any(hasattr(one, "v_norm") for one in attentions):
            pytest.skip("values are not what one projection returns")
        with kept(plain) as calls:
            alone.model(**alone.inputs())
        for view in seeing.of_row(number):
            values = view.read.values.transpose(0, 1).flatten(1)
            torch.testing.assert_close(values, calls[view.layer - 1][1][0], rtol=1e-3, atol=1e-4)


@entries
def test_keys_without_positions_are_what_is_projected(entry: ZooEntry) -> None:
    """Among the tokens that an earlier layer left, too."""
    prompt, seeing = Prompt(entry, [WIDE]), Seeing("unrotated")
    dropping = lftr.get_method("fastv", layer=first_layer(entry), keep=0.6)
    with kept(projections(prompt)) as calls, lftr.reduce(prompt.model, [seeing, dropping]):
        prompt.forward()
    attentions = [attention_modules(layer)[0] for layer in layers_of(prompt.model)]
    if any(hasattr(one, name) for one in attentions for name in ("q_norm", "qk_norm")):
        pytest.skip("queries and keys are normalised after the projection")
    assert len(seeing.views[-1].visual) < len(seeing.views[0].visual) or len(seeing.views) == 1
    for view in seeing.views:
        # the reading is each layer's last call, on the tokens that came through the layer
        key, query = (calls.get((view.layer - 1, name)) for name in ("k_proj", "q_proj"))
        if key is None or query is None:
            pytest.skip("queries and keys are not what one projection returns")
        keys, asked = (x.transpose(0, 1).flatten(1) for x in (view.read.keys, view.read.queries))
        assert len(keys) == len(view.states)
        torch.testing.assert_close(keys, key[1][0], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(asked, query[1][0][-1:], rtol=1e-5, atol=1e-6)


@entries
def test_keys_without_positions_in_a_batch(entry: ZooEntry) -> None:
    prompt, together = Prompt(entry, [WIDE, PLAIN, SQUARE]), Seeing("unrotated")
    with lftr.reduce(prompt.model, together):
        prompt.forward()
    for number, row in enumerate(visual_rows(prompt)):
        alone = Seeing("unrotated")
        with lftr.reduce(prompt.model, alone):
            prompt.alone(row).forward()
        for one, other in zip(together.of_row(number), alone.views, strict=True):
            assert one.read.first == other.read.first == len(one.states) - 1
            torch.testing.assert_close(one.read.keys, other.read.keys, rtol=1e-3, atol=1e-4)
            torch.testing.assert_close(one.read.queries, other.read.queries, rtol=1e-3, atol=1e-4)


def projections(prompt: Prompt) -> dict[Any, nn.Module]:
    """The projections of keys and queries of every layer that has them."""
    attentions = [attention_modules(layer)[0] for layer in layers_of(prompt.model)]
    named = {
        (number, name): getattr(attention, name, None)
        for number, attention in enumerate(attentions)
        for name in ("q_proj", "k_proj")
    }
    return {key: module for key, module in named.items() if module is not None}


@entries
def test_passages_are_those_of_the_plain_model(entry: ZooEntry) -> None:
    prompt, seeing = Prompt(entry, [WIDE, SQUARE]), Seeing(follows=True)
    try:
        with lftr.reduce(prompt.model, seeing):
            prompt.forward()
    except lftr.UnsupportedModelError as refusal:
        if entry.name != "llama4":  # its experts lose the rows of a batch before transformers 5.24
            raise
        pytest.skip(str(refusal))
    for number, row in enumerate(visual_rows(prompt)):
        alone = prompt.alone(row)
        parts: dict[Any, nn.Module] = {}
        for at, layer in enumerate(layers_of(prompt.model)):
            parts[at, 0] = attention_modules(layer)[0]
            parts[at, 1] = next(
                part for name, part in layer.named_children() if name in ("mlp", "feed_forward")
            )
        with kept(parts) as calls:
            alone.model(**alone.inputs())
        for view in seeing.of_row(number):
            for part, passage in enumerate(view.passed):
                for found, wanted in zip(
                    (passage.entered, passage.left), calls[view.layer - 1, part], strict=True
                ):
                    assert found.shape == view.states.shape
                    size = float(wanted.abs().max())
                    torch.testing.assert_close(found, wanted[0], rtol=1e-3, atol=1e-4 * size)


def test_following_leaves_no_hooks_and_needs_an_mlp() -> None:
    prompt = Prompt(FAMILIES["llava"], [WIDE])
    parts = [part for layer in layers_of(prompt.model) for part in layer.modules()]

    def hooks() -> int:
        return sum(len(part._forward_hooks) for part in parts)

    before = hooks()  # transformers leaves some of its own
    with lftr.reduce(prompt.model, Seeing(follows=True)):
        assert hooks() > before
    assert hooks() == before
    model = FAMILIES["llava"].model()
    for layer in layers_of(model):
        layer.feed = layer._modules.pop("mlp")
    try:
        with pytest.raises(lftr.LftrError, match="layers that have an attention and an MLP"):
            lftr.reduce(model, Seeing(follows=True))
    finally:
        for layer in layers_of(model):
            layer.mlp = layer._modules.pop("feed")


def test_positions_that_layers_are_not_passed_cannot_be_taken_out() -> None:
    with pytest.raises(lftr.LftrError, match="not passed the cosines and sines"):
        no_rotation(None)
    turned = torch.polar(torch.ones(2, 3), torch.ones(2, 3))
    assert no_rotation(turned).equal(torch.ones_like(turned))


@pytest.mark.parametrize("entry", [e for e in EVERY_MASKED if e.name == "dots3_note"], ids=str)
def test_positions_by_which_keys_are_chosen_cannot_be_taken_out(entry: ZooEntry) -> None:
    with pytest.raises(lftr.LftrError, match="this one chooses them by their positions"):
        lftr.reduce(entry.model(), Seeing("unrotated"))


def test_parts_that_a_method_follows_must_be_active() -> None:
    resting = Planned(lftr.schedules.Skip("bypassed", layers=(1,)))
    with pytest.raises(lftr.LftrError, match="layers in which visual tokens are active"):
        lftr.reduce(FAMILIES["llava"].model(), [resting, Seeing(follows=True)])


@pytest.mark.parametrize(
    "name", [n for n in ("llava", "fuyu", "lfm2_vl", "lfm3_vl", "nemotron_h_omni") if n in FAMILIES]
)
def test_states_are_normalised_as_after_the_last_layer(name: str) -> None:
    """Whatever the model calls its norm."""
    prompt = Prompt(FAMILIES[name], [WIDE])
    family = family_of(prompt.model)
    decoder: Any = family.decoder(prompt.model)
    left: list[Tensor] = []

    def note(_: Any, args: Any, output: Any) -> None:
        left.append(output if isinstance(output, Tensor) else output[0])

    handles = [part.register_forward_hook(note) for part in (decoder.layers[-1], decoder)]
    prompt.forward()
    for handle in handles:
        handle.remove()
    plan = ReductionPlan(lftr.get_method("random"), 1.0)
    host = LayerHost(prompt.model, family, plan, Report())
    with torch.no_grad():
        assert torch.allclose(host.norm(left[0]), left[1], atol=1e-5)
    assert not torch.allclose(left[0], left[1], atol=1e-2)


def test_a_model_without_a_final_norm_is_refused_where_a_method_asks_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prompt = Prompt(FAMILIES["llava"], [WIDE])
    monkeypatch.setattr(base, "_FINAL_NORMS", ("norm_of_a_later_release",))
    with lftr.reduce(prompt.model, "fastv"):
        prompt.forward()
    refused = pytest.raises(lftr.UnsupportedModelError, match="no norm after the last layer")
    with lftr.reduce(prompt.model, "dart-inside"), refused:
        prompt.forward()
