"""Images of degenerate sizes, and what a call asks of the encoder beside the configuration."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from typing import Any

import pytest
import torch

import lftr
from lftr.hosts.transformers.families import family_of
from lftr.methods.base import ImageMethod
from lftr.values.errors import ArgumentError, LftrError, MissingEvidenceError

from .support import FAMILIES, SQUARE, Prompt, ZooEntry, assert_true, fresh, reduced

SIZES = [(3000, 20), (20, 3000), (1, 1), (1, 5000), (5000, 1), (24, 24), (47, 49)]


def anyres(entry: ZooEntry, size: tuple[int, int]) -> tuple[Prompt, dict[str, Any]]:
    """A prompt of one image of a size (height, width), as the model itself counts its tokens."""
    prompt = Prompt(entry, [SQUARE])
    model: Any = prompt.model
    inputs = prompt.inputs()
    views = inputs["pixel_values"].shape[1]
    from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

    pinpoints, side = model.config.image_grid_pinpoints, model.config.vision_config.image_size
    count = image_size_to_num_patches(list(size), pinpoints, side)
    pixels = torch.randn(1, max(views, count), 3, side, side)
    given = {"pixel_values": pixels, "image_sizes": torch.tensor([size])}
    features = model.get_image_features(**given, return_dict=True).pooler_output
    ids = [1, 20, 21, *[entry.image_token_id(model)] * len(features[0]), 30, 31, 32]
    input_ids = torch.tensor([ids])
    return prompt, given | {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES, ids=lambda size: "x".join(map(str, size)))
@pytest.mark.parametrize("name", ["llava_next", "llava_onevision", "llava_next_video"])
def test_strips(name: str, size: tuple[int, int]) -> None:
    entry = FAMILIES[name]
    try:
        prompt, inputs = anyres(entry, size)
        prompt.model.generate(**inputs, max_new_tokens=1)
    except (RuntimeError, ZeroDivisionError, ValueError) as error:
        pytest.skip(f"upstream: the plain model raises {type(error).__name__}")
    for method in lftr.list_methods("before"):
        try:
            reduction = lftr.reduce(prompt.model, method, keep=0.25)
        except MissingEvidenceError:
            continue
        resizes = isinstance(lftr.get_method(method), ImageMethod)
        with reduction, pytest.raises(LftrError) if resizes else nullcontext():
            prompt.model.generate(**inputs, max_new_tokens=1)
        if resizes:  # encodes another image, which these families cannot
            continue
        (item,) = reduction.report.items
        assert item.kept == -(-item.tokens // 4) == len(set(item.positions))
        assert sum(t * h * w for t, h, w in item.grids) + len(item.separators) == item.tokens
        assert all(min(grid) > 0 for grid in item.grids)


# ---- the class token goes on --------------------------------------------------------------------


@pytest.fixture
def full() -> Prompt:
    """A LLaVA whose language model is shown the class token, too."""
    entry = copy.copy(FAMILIES["llava"])
    model: Any = fresh(entry)
    model.config.vision_feature_select_strategy = "full"
    plain = entry.counts
    entry.counts = lambda *arguments: plain(*arguments) + 1  # type: ignore[method-assign]
    return Prompt(entry, model=model)


@pytest.mark.parametrize("method", lftr.list_methods("before"))
def test_full_strategy(full: Prompt, method: str) -> None:
    if isinstance(lftr.get_method(method), ImageMethod):
        pytest.skip("encodes another image")
    try:
        with reduced(full.model, method, 0.3) as run:
            output = full.generate()
    except MissingEvidenceError:
        pytest.skip("needs more than a LLaVA alone can tell")
    for item in run.report.items:
        assert item.separators == (0,)
        assert item.grids[0][1] * item.grids[0][2] == item.tokens - 1
    assert_true(full, run, output)


def test_full_strategy_asked_by_the_call(full: Prompt) -> None:
    with lftr.reduce(full.model, "visionzip", keep=0.3) as reduction:
        expected = full.forward().logits
        kept = [item.positions for item in reduction.report.items]
    full.model.config.vision_feature_select_strategy = "default"
    with lftr.reduce(full.model, "visionzip", keep=0.3) as reduction:
        found = full.forward(vision_feature_select_strategy="full").logits
    assert torch.equal(found, expected)
    assert [item.positions for item in reduction.report.items] == kept


def test_full_strategy_where_the_encoder_merges(full: Prompt) -> None:
    with reduced(full.model, "lftr", 0.3, encoder=lftr.EncoderToMe(r=4)) as run:
        full.forward()
    assert run.report.kept < run.report.tokens


# ---- another layer is asked for -----------------------------------------------------------------


@pytest.mark.parametrize("name", ["llava", "llava_next", "vipllava"])
@pytest.mark.parametrize("method", ["visionzip", "hiprune", "divprune"])
def test_a_layer_asked_by_the_call(name: str, method: str) -> None:
    """Evidence is of the layer whose features the model uses in this call."""
    entry = FAMILIES[name]
    asked = Prompt(entry)
    own = Prompt(entry, model=fresh(entry))
    layer = [-3, 0, 1] if name == "vipllava" else -3
    assert getattr(own.model.config, entry.feature_layer) != layer
    setattr(own.model.config, entry.feature_layer, layer)
    with lftr.reduce(own.model, method, keep=0.3) as expected:
        logits = own.forward().logits
    with lftr.reduce(asked.model, method, keep=0.3) as found:
        assert torch.equal(asked.forward(**{entry.feature_layer: layer}).logits, logits)
    kept = [[item.positions for item in one.report.items] for one in (expected, found)]
    assert kept[0] == kept[1]


@pytest.mark.parametrize("name", ["vision_feature_layer", "vision_feature_layers"])
def test_the_deepest_of_several_layers(name: str) -> None:
    """Evidence is of the last layer that the features are made of, by either name of the list."""
    model = FAMILIES["vipllava"].model()  # makes them of the last but one, an earlier and the first
    family, layers = family_of(model), len(model.base_model.vision_tower.encoder.layers)
    assert family.attention_layer(model, layers) == layers - 2
    assert family.attention_layer(model, layers, {name: [0, 1]}) == 0


def test_merges_up_to_another_layer_are_refused(llava: ZooEntry) -> None:
    prompt = Prompt(llava)
    with (
        lftr.reduce(prompt.model, "lftr", keep=0.3, encoder=lftr.EncoderToMe(r=4)),
        pytest.raises(ArgumentError, match="vision_feature_layer = -1"),
    ):
        prompt.forward(vision_feature_layer=-1)
