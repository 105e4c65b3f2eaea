"""`lftr show` and the drawing behind it: kept tokens are marked where they are."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

import lftr as library
from lftr import Flow, Selection
from lftr.drawing import (
    ACCENT,
    draw_item,
    patch_side,
    processed_part,
    slot_colours,
    stack_vertically,
)
from lftr.media import read_image
from lftr.values.report import ItemReport

GRID = (1, 24, 24)


def corner(image, grid, token):
    """The colour of a token's upper left pixel."""
    side = patch_side(grid)
    return image.getpixel((token % grid[2] * side, token // grid[2] * side))


def centre(image, grid, token):
    side = patch_side(grid)
    row, column = divmod(token, grid[2])
    return image.getpixel((column * side + side // 2, row * side + side // 2))


def test_marks_the_kept_tokens_and_no_other(reads, picture, tmp_path):
    out = tmp_path / "kept.png"
    told = reads("show", picture, "-o", out, "--method", "uniform")
    (item,) = told["report"]["items"]
    assert len(item["positions"]) == 36
    drawn = Image.open(out)
    marked = [token for token in range(576) if corner(drawn, GRID, token) == ACCENT]
    assert marked == item["positions"]


def test_shows_what_flowed_where(lftr, picture, tmp_path):
    out = tmp_path / "flows.png"
    result = lftr("show", picture, "--out", out, "--method", "pool", "--tokens", "16")
    assert result.exit_code == 0
    assert str(out) in result.stdout
    drawn = Image.open(out)
    hues = {corner(drawn, GRID, token) for token in range(576)}
    assert len(hues) >= 16  # a border of each slot's own colour


def test_the_default_method_draws(reads, picture, tmp_path):
    out = tmp_path / "lftr.png"
    told = reads("show", picture, "--out", out, "--question", "What colour is the square?")
    assert out.exists()
    assert told["picture"] == str(out)
    assert told["question"] == "What colour is the square?"


def test_shows_what_the_encoder_merged_too(reads, fails, picture, tmp_path):
    out = tmp_path / "merged.png"
    words = ("show", picture, "--out", out, "--method", "uniform", "--tokens", 8)
    (item,) = reads(*words, "--encoder", "folder:keep=1/3")["report"]["items"]
    assert (item["tokens"], item["encoded"], item["kept"]) == (576, 192, 8)
    drawn = Image.open(out)
    slots = {corner(drawn, GRID, token) for token in item["positions"]}
    assert len(slots) == 8  # each a colour of its own: `uniform` alone merges nothing
    assert "did you mean 'tome'" in fails(*words, "--encoder", "tom")


def test_a_method_inside_the_model_keeps_what_its_schedule_says(lftr, picture, tmp_path):
    out = tmp_path / "inside.png"
    assert lftr("show", picture, "--method", "fastv", "--out", out).exit_code == 0
    drawn = Image.open(out)
    assert sum(corner(drawn, GRID, token) == ACCENT for token in range(576)) == 288


def test_a_folder_that_is_not_there_and_an_ending_that_is_no_picture(fails, picture, tmp_path):
    assert "--out = " in fails("show", picture, "--out", tmp_path / "no" / "x.png")
    assert "--out = " in fails("show", picture, "--out", tmp_path / "x.nonsense")
    assert "image = " in fails("show", tmp_path / "absent.png")


def test_dropped_tokens_are_dim_and_merged_ones_tinted():
    image = Image.new("RGB", (64, 64), (200, 200, 200))
    flow = Flow(torch.tensor([0, 1, 5]), torch.tensor([0, 0, 1]), torch.tensor([0.5, 0.5, 1.0]))
    selection = Selection(torch.tensor([0, 5]), flow)
    grid = (1, 4, 4)
    drawn = draw_item(ItemReport.of(0, 0, [grid], 16, selection), image)
    colours = slot_colours(selection)
    assert corner(drawn, grid, 0) == colours[0]
    assert corner(drawn, grid, 5) == colours[1]
    assert centre(drawn, grid, 0) == (200, 200, 200)  # kept: as it is
    assert centre(drawn, grid, 15) == (56, 56, 56)  # dropped: dim
    tinted = centre(drawn, grid, 1)
    assert tinted not in ((200, 200, 200), (56, 56, 56))
    assert max(range(3), key=tinted.__getitem__) == max(range(3), key=colours[0].__getitem__)


def test_tiles_stand_beside_each_other_and_separators_in_none():
    grids = [(1, 2, 2), (1, 2, 3)]
    separator = torch.zeros(12, dtype=torch.bool)
    separator[[7, 11]] = True  # a newline after each row of the second grid
    selection = Selection(torch.tensor([0, 8]))
    drawn = draw_item(ItemReport.of(0, 0, grids, 12, selection, separator))
    one, two = (patch_side(grid) for grid in grids)
    left = drawn.width - 3 * two
    assert left > 2 * one
    assert drawn.getpixel((0, 0)) == ACCENT
    assert drawn.getpixel((left, two)) == ACCENT  # token 8 is the first of the second row
    assert drawn.getpixel((left, 0)) != ACCENT


def test_tokens_without_a_place_lie_on_plain_ground():
    item = ItemReport.of(0, 0, None, 32, Selection(torch.tensor([3])))
    red = draw_item(item, Image.new("RGB", (64, 64), (255, 0, 0)))
    assert red.tobytes() == draw_item(item).tobytes()


def test_several_items_stand_below_each_other():
    pictures = [Image.new("RGB", (10, 20)), Image.new("RGB", (30, 5))]
    assert stack_vertically(pictures).size == (30, 20 + 5 + 12)


@pytest.mark.parametrize(("size", "seen"), [((288, 192), (192, 192)), ((100, 300), (100, 100))])
def test_the_part_that_the_model_is_shown(size, seen):
    _, processor = library.bundled.load()
    assert processed_part(processor, Image.new("RGB", size)).size == seen


def test_the_square_lies_where_the_model_sees_it(picture):
    _, processor = library.bundled.load()
    part = processed_part(processor, read_image(picture))
    assert part.getpixel((100 - 48 + 20, 100)) == (220, 30, 30)
