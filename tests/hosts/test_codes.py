"""OCR and single-image families: tokens that are codes, bare patches or queries; where they lie.

Where tokens are made of the encoder's patches, test_layouts.py tells.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PPChart2TableConfig
from zoo.codes import GRIDS, LINE
from zoo.layouts import tiles
from zoo.tiles import GotOcr2

import lftr
from lftr.values.errors import MissingEvidenceError

from .support import (
    FAMILIES,
    HOSTED,
    NEW,
    ROWS,
    Image,
    Prompt,
    Row,
    ZooEntry,
    assert_true,
    images_of,
    reduced,
    seen,
)

UNMAPPED = [entry for entry in HOSTED if entry.traits.reads == "features"]


def family(name: str) -> ZooEntry:
    if name not in FAMILIES:
        pytest.skip(f"this transformers has no {name}")
    return FAMILIES[name]


def grids_of(entry: ZooEntry) -> list[tuple[int, int]]:
    return [GRIDS[image.kind] for row in entry.rows(ROWS) for image in images_of(row)]


@pytest.mark.parametrize("name", ["chameleon", "emu3", "apertus1p5"])
def test_codes_lie_in_rows(name: str) -> None:
    """A token's place in the grid is that of its code in the quantiser's map."""
    prompt = Prompt(family(name))
    embed = prompt.model.get_input_embeddings()
    output = prompt.entry.features(prompt.model, prompt.inputs())
    codes = output.image_tokens
    if name == "chameleon":
        codes = codes.reshape(-1, 6, 6)
    items = seen(prompt, "features")
    shapes = [(6, 6)] * 3 if name == "chameleon" else grids_of(prompt.entry)
    table = _vocabulary(prompt.model)
    for tokens, image, shape in zip(items, codes, shapes, strict=True):
        assert tokens.grid == (1, *shape)
        bare = tokens.without_separators()
        assert torch.equal(bare.features, embed(table[image.flatten()]))


def _vocabulary(model: Any) -> Tensor:
    """The id of each code; Apertus gives ids already."""
    if model.config.model_type == "apertus1p5":
        return torch.arange(model.config.text_config.vocab_size)
    return torch.as_tensor(model.base_model.vocabulary_mapping.img2bpe_mapping_tensor).long()


def test_emu3_separators_end_its_rows() -> None:
    prompt = Prompt(FAMILIES["emu3"])
    line = prompt.model.get_input_embeddings().weight[LINE]
    for tokens, (_, columns) in zip(seen(prompt, "features"), grids_of(prompt.entry), strict=True):
        places = tokens.separator.nonzero().squeeze(1)
        assert torch.equal(places % (columns + 1), torch.full_like(places, columns))
        assert torch.equal(tokens.features[tokens.separator], line.expand(len(places), -1))


@pytest.mark.parametrize("keep", [1.0, 0.4])
def test_fuyu_takes_its_pixels_by_either_name(keep: float) -> None:
    """Its processor still gives `image_patches`."""
    prompt = Prompt(family("fuyu"))
    old = prompt.inputs()
    old["image_patches"] = old.pop("pixel_values")
    with lftr.reduce(prompt.model, "random", keep=keep) as reduction:
        expected = prompt.generate().sequences
        report = reduction.report
        found = prompt.model.generate(**old, max_new_tokens=NEW, do_sample=False)
        assert reduction.report.received == report.received
        logits = prompt.model(**old).logits
    assert torch.equal(found, expected)
    with lftr.reduce(prompt.model, "random", keep=keep):
        assert torch.equal(logits, prompt.forward().logits)


def test_fuyu_rows_are_the_runs_of_an_image() -> None:
    prompt = Prompt(family("fuyu"))
    found = [tokens.grid for tokens in seen(prompt, "features")]
    assert found == [(1, *grid) for grid in grids_of(prompt.entry)]


@pytest.mark.parametrize("pixels", ["new", "all"])
def test_a_second_turn_of_several_fuyu_rows(pixels: str) -> None:
    """Which runs are the new images' is told row by row."""
    entry = family("fuyu")
    model, new = entry.model(), Image("tall", 9)
    rows: list[Row] = [[3, Image("wide", 1), 2], [2, Image("wide", 2), 3]]

    def answers(rows: list[Row]) -> list[list[int]]:
        with lftr.reduce(model, "divprune", keep=0.5):
            first = entry.inputs(model, rows)
            output = model.generate(**first, max_new_tokens=2, return_dict_in_generate=True)
            more = [20, *entry.image_ids(model, new), 21]
            ids = [[*row, *more] for row in output.sequences.tolist()]
            old = [images_of(row) if pixels == "all" else [] for row in rows]
            second = entry.batch(model, ids, [[*images, new] for images in old])
            cache = output.past_key_values
            found = model.generate(**second, past_key_values=cache, max_new_tokens=3)
            return found[:, -3:].tolist()  # type: ignore[no-any-return]

    assert answers(rows) == [answers([row])[0] for row in rows]


@pytest.mark.parametrize("name", ["aria", "idefics2", "deepseek_ocr2"])
def test_queries_are_a_row(name: str) -> None:
    """Sixteen of them are no square."""
    prompt = Prompt(FAMILIES[name])
    for tokens in seen(prompt, "features"):
        assert tokens.grid == (1, 1, tokens.without_separators().count)


def test_deepseek_ocr2_ends_with_its_separator() -> None:
    prompt = Prompt(FAMILIES["deepseek_ocr2"])
    mark = prompt.model.base_model.view_separator
    for tokens in seen(prompt, "features"):
        assert tokens.separator.nonzero().flatten().tolist() == [tokens.count - 1]
        assert torch.equal(tokens.features[-1], mark)


def test_pp_chart2table_is_got_ocr2() -> None:
    class Charts(GotOcr2):
        def made(self, **settings: Any) -> PPChart2TableConfig:
            return PPChart2TableConfig(**settings)

    entry = Charts()
    prompt = Prompt(entry)
    assert prompt.model.config.model_type == "pp_chart2table"
    with reduced(prompt.model) as run:
        assert_true(prompt, run, prompt.generate())
    grids = [item.grids for item in run.report.items]
    assert grids == [((1, 4, 4),) * tiles(image) for row in prompt.rows for image in images_of(row)]


@pytest.mark.parametrize("entry", UNMAPPED, ids=str)
def test_what_cannot_be_read_is_said(entry: ZooEntry) -> None:
    """Methods that need more are refused, and reports say what the others were shown."""
    prompt = Prompt(entry)
    with pytest.raises(MissingEvidenceError, match="attention"):
        lftr.reduce(prompt.model, "vispruner", keep=0.5)
    with lftr.reduce(prompt.model, "random", keep=0.5) as reduction:
        prompt.generate(1)
    assert any("no more of a" in note for note in reduction.report.notes)
