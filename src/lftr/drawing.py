"""Pictures of a selection: the kept tokens, and the tokens merged into them."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from .media.picture import read_image
from .values.report import ItemReport
from .values.selection import Selection
from .values.tokens import Grid

Colour = tuple[int, int, int]

ACCENT: Colour = (255, 200, 0)  # border of a kept token
_GROUND = (24, 26, 32)
_INK = (235, 235, 235)
_DIM = 0.28  # brightness of what was dropped
_MERGED = 0.55  # brightness of what flowed into a kept token
_TINT = 0.4  # of a slot's colour over it
_GAP = 12


def draw_item(item: ItemReport, image: Image.Image | None = None, length: int = 480) -> Image.Image:
    """Draw one visual item of a report, its grids side by side.

    Kept tokens are bright inside a border. With merging, every slot has a colour: the border of its
    anchor, and a tint of the tokens that were merged into it. Dropped tokens are dim.

    Parameters
    ----------
    item : ItemReport
        An item of the report of a forward or generate.
    image : PIL.Image.Image, optional
        The image as the model received it, drawn below an item of one grid. Tiles, and tokens
        without a place (a Q-Former's), are drawn on a plain background.
    length : int
        Smallest length of a grid's longer side, in pixels.
    """
    pictures = []
    for number, (frames, rows, columns) in enumerate(item.grids):
        placed = len(item.grids) == 1 and frames == 1 and rows > 1  # queries lie nowhere
        tokens = _Tokens.of(item, number)
        side = patch_side((frames, rows, columns), length)
        pictures.append(tokens.draw((frames * rows, columns), image if placed else None, side))
    return stack_horizontally(pictures)


def draw_frames(
    item: ItemReport, frames: Sequence[Image.Image], length: int = 240
) -> list[Image.Image]:
    """Draw a clip's visual item frame by frame, as `draw_item` draws an image.

    Parameters
    ----------
    item : ItemReport
        An item of one grid (T, H, W).
    frames : sequence of PIL.Image.Image
        The frames as the model received them. If the model joins frames, so that T is smaller, the
        first of each joined group is drawn.
    length : int
        Smallest length of a frame's longer side, in pixels.

    Returns
    -------
    list of PIL.Image.Image
        T pictures.
    """
    (count, rows, columns) = item.grids[0]
    tokens, side = _Tokens.of(item, 0), patch_side((1, rows, columns), length)
    return [
        tokens.frame(number, rows * columns).draw(
            (rows, columns), frames[number * len(frames) // count], side
        )
        for number in range(count)
    ]


def kept_of_frames(item: ItemReport) -> list[int]:
    """Return the number of kept tokens in each frame of an item of one grid."""
    count, rows, columns = item.grids[0]
    tokens = _Tokens.of(item, 0)
    return [sum(tokens.frame(number, rows * columns).anchors) for number in range(count)]


@dataclass(frozen=True)
class _Tokens:
    """Tokens of an item in raster order: the slot of each, and whether it is an anchor."""

    slots: Sequence[int]
    anchors: Sequence[bool]
    colours: Sequence[Colour]

    @classmethod
    def of(cls, item: ItemReport, number: int) -> _Tokens:
        """Return the tokens of one of the item's grids."""
        assert item.selection is not None, "reports of a reduction hold their selections"
        slots = item.selection.assignment(item.tokens).tolist()
        anchors, separators = set(item.positions), set(item.separators)
        patches = [i for i in range(item.tokens) if i not in separators]
        sizes = [math.prod(grid) for grid in item.grids]
        places = patches[sum(sizes[:number]) : sum(sizes[: number + 1])]
        return cls(
            [slots[i] for i in places], [i in anchors for i in places], slot_colours(item.selection)
        )

    def frame(self, number: int, size: int) -> _Tokens:
        """Return the tokens of one frame."""
        part = slice(number * size, (number + 1) * size)
        return _Tokens(self.slots[part], self.anchors[part], self.colours)

    def draw(self, shape: tuple[int, int], under: Image.Image | None, side: int) -> Image.Image:
        """Draw the tokens in rows and columns, each ``side`` pixels wide and high."""
        rows, columns = shape
        size = (columns * side, rows * side)
        bright = Image.new("RGB", size, (96, 100, 112))
        if under is not None:
            bright = read_image(under).resize(size, Image.Resampling.BICUBIC)
        picture = Image.blend(Image.new("RGB", size), bright, _DIM)
        pen = ImageDraw.Draw(picture)
        for place, (slot, anchor) in enumerate(zip(self.slots, self.anchors, strict=True)):
            if slot < 0:
                continue
            row, column = divmod(place, columns)
            box = (column * side, row * side, (column + 1) * side, (row + 1) * side)
            patch = bright.crop(box)
            if not anchor:
                patch = Image.blend(Image.new("RGB", patch.size), patch, _MERGED)
                patch = Image.blend(patch, Image.new("RGB", patch.size, self.colours[slot]), _TINT)
            picture.paste(patch, box)
            if anchor:
                edge = (box[0], box[1], box[2] - 1, box[3] - 1)
                pen.rectangle(edge, outline=self.colours[slot], width=max(1, round(side / 8)))
        return picture


def slot_colours(selection: Selection) -> list[Colour]:
    """Return a colour for each slot: the same without merging, else distinct hues."""
    if selection.flow is None:
        return [ACCENT] * selection.count
    return [_hue(slot) for slot in range(selection.count)]


def _hue(slot: int) -> Colour:
    red, green, blue = colorsys.hsv_to_rgb(slot * 0.61803398875 % 1, 0.75, 1.0)
    return round(red * 255), round(green * 255), round(blue * 255)


def patch_side(grid: Grid, length: int = 480) -> int:
    """Side of a token in a picture, in pixels; `length` is shared by the grid's longer side."""
    return max(8, -(-length // max(grid[0] * grid[1], grid[2])))


def stack_horizontally(
    pictures: Sequence[Image.Image], captions: Sequence[str] = ()
) -> Image.Image:
    """Put pictures in a row, with a caption of one or more lines under each."""
    if len(pictures) == 1 and not captions:
        return pictures[0]
    font = ImageFont.load_default(15)
    lines = max((caption.count("\n") + 1 for caption in captions), default=0)
    height = max(picture.height for picture in pictures) + lines * 20 + (8 if lines else 0)
    width = sum(picture.width for picture in pictures) + _GAP * (len(pictures) - 1)
    sheet = Image.new("RGB", (width, height), _GROUND)
    pen, left = ImageDraw.Draw(sheet), 0
    for number, picture in enumerate(pictures):
        sheet.paste(picture, (left, 0))
        if captions:
            at = (left + 4, max(p.height for p in pictures) + 6)
            pen.multiline_text(at, captions[number], _INK, font, spacing=4)
        left += picture.width + _GAP
    return sheet


def stack_vertically(pictures: Sequence[Image.Image]) -> Image.Image:
    """Put pictures in a column."""
    height = sum(picture.height for picture in pictures) + _GAP * (len(pictures) - 1)
    sheet = Image.new("RGB", (max(picture.width for picture in pictures), height), _GROUND)
    top = 0
    for picture in pictures:
        sheet.paste(picture, (0, top))
        top += picture.height + _GAP
    return sheet


def processed_part(processor: Any, image: Image.Image) -> Image.Image:
    """Return the part of an image that a processor passes to the model: the centre if it crops.

    As `prompting` hands it on: upright, in RGB.
    """
    image = read_image(image)
    settings = getattr(processor, "image_processor", processor)
    shortest = (getattr(settings, "size", None) or {}).get("shortest_edge")
    crop = getattr(settings, "crop_size", None) or {}
    if not getattr(settings, "do_center_crop", False) or not shortest or "height" not in crop:
        return image
    scale = min(image.size) / shortest
    width = min(image.width, crop["width"] * scale)
    height = min(image.height, crop["height"] * scale)
    left, top = (image.width - width) / 2, (image.height - height) / 2
    return image.crop((round(left), round(top), round(left + width), round(top + height)))
