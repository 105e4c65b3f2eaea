"""Pictures drawn cell by cell, and what a viewer shows of each cell, worked out without Pillow.

A picture is a grid of flat cells. Only the middle of each is compared, so that lossy formats and
resizing can be told by the same rule as lossless ones.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageCms

SIDE = 16  # pixels of a cell
CHANNELS = {"LA": 2, "RGB": 3, "RGBA": 4, "CMYK": 4, "YCbCr": 3, "LAB": 3, "HSV": 3}
LOSSY = {"JPEG": 14, "AVIF": 14, "MPO": 14}  # levels by which a cell may be off
ORIENTED = ("JPEG", "PNG", "TIFF", "WEBP", "AVIF", "MPO")
MODES = {
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "TIFF": ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "LAB", "I;16", "I", "F"),
    "WEBP": ("RGB", "RGBA"),
    "JPEG": ("L", "RGB", "CMYK"),
    "AVIF": ("RGB", "RGBA"),
    "BMP": ("1", "L", "P", "RGB"),
    "GIF": ("L", "P"),
    "TGA": ("L", "RGB", "RGBA"),
    "PPM": ("1", "L", "RGB", "I;16", "F"),
    "JPEG2000": ("L", "LA", "RGB", "RGBA", "I;16"),
    "QOI": ("RGB", "RGBA"),
    "MPO": ("RGB",),
}
SAVED_WITH: dict[str, dict[str, Any]] = {
    "WEBP": {"lossless": True},
    "JPEG": {"quality": 95, "subsampling": 0},
    "MPO": {"quality": 95, "subsampling": 0},
    "AVIF": {"quality": 95, "subsampling": "4:4:4"},
}
WIDE = {"1": 1, "L": 255, "P": 255, "I;16": 65535, "I": 65535, "F": 1.0}  # the greatest value


@dataclass(frozen=True)
class Drawn:
    """A picture as it was meant.

    Attributes
    ----------
    cells : np.ndarray
        ``(rows, columns)`` or ``(rows, columns, channels)``, values of the mode; of P places in
        the palette.
    key : int or tuple of int or bytes, optional
        PNG's transparency: a value, a colour, or the alpha of each place of the palette.
    palette : np.ndarray
        ``(256, 3)``, of P.
    srgb : bool
        Whether the file holds sRGB's profile, which changes nothing.
    """

    mode: str
    cells: np.ndarray
    orientation: int = 1
    key: Any = None
    palette: np.ndarray = field(default_factory=lambda: np.zeros((256, 3), np.uint8), repr=False)
    srgb: bool = False

    def image(self) -> Image.Image:
        """Return it as Pillow holds it."""
        whole = np.repeat(np.repeat(self.cells, SIDE, 0), SIDE, 1)
        height, width = whole.shape[:2]
        if self.mode == "1":
            return Image.fromarray((whole * 255).astype(np.uint8)).convert("1", dither=0)
        if self.mode in ("I;16", "I", "F"):
            kind = {"I;16": np.uint16, "I": np.int32, "F": np.float32}[self.mode]
            return Image.fromarray(whole.astype(kind))
        if self.mode == "LAB":  # a and b are signed in files, and 128 is 0 here
            whole = whole ^ np.array([0, 128, 128])
        image = Image.frombytes(self.mode, (width, height), whole.astype(np.uint8).tobytes())
        if self.mode == "P":
            image.putpalette(self.palette.tobytes())
        return image

    def save(self, target: Path | io.BytesIO, format: str, **options: Any) -> None:
        """Write a file."""
        options = SAVED_WITH.get(format, {}) | options
        if self.orientation != 1:
            exif = Image.Exif()
            exif[0x0112] = self.orientation
            options["exif"] = exif
        if self.key is not None:
            options["transparency"] = self.key
        if self.srgb:
            profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
            options["icc_profile"] = profile.tobytes()
        self.image().save(target, format, **options)

    def seen(self) -> np.ndarray:
        """Return ``(rows, columns, 3)``, what a viewer shows of each cell, from 0 to 255."""
        colours, alpha = self._colours()
        shown = colours * alpha[..., None] + 255.0 * (1 - alpha[..., None])
        return turned(shown, self.orientation)

    def _colours(self) -> tuple[np.ndarray, np.ndarray]:
        cells, opaque = self.cells.astype(float), np.ones(self.cells.shape[:2])
        if self.mode == "P":
            if isinstance(self.key, bytes):
                table = np.full(256, 255.0)
                table[: len(self.key)] = list(self.key)
                opaque = table[self.cells] / 255
            return self.palette[self.cells].astype(float), opaque
        if self.key is not None:
            same = self.cells == np.asarray(self.key)
            opaque = 1.0 - (same.all(-1) if same.ndim == 3 else same)
        if self.cells.ndim == 2:
            return np.repeat(cells[..., None] * (255 / WIDE[self.mode]), 3, -1), opaque
        if self.mode == "LA":
            return np.repeat(cells[..., :1], 3, -1), cells[..., 1] / 255
        if self.mode == "RGBA":
            return cells[..., :3], cells[..., 3] / 255
        if self.mode == "CMYK":
            return (255 - cells[..., :3]) * (255 - cells[..., 3:]) / 255, opaque
        if self.mode == "YCbCr":
            return _from_ycc(cells), opaque
        if self.mode == "LAB":
            return _from_lab(cells), opaque
        return cells, opaque

    def cut(self) -> Drawn:
        """Return it with one row of cells less: another picture of the same kind."""
        return replace(self, cells=self.cells[:-1])


def turned(cells: np.ndarray, orientation: int) -> np.ndarray:
    """Turn a grid as EXIF says: where the 0th row and the 0th column of what is seen lie."""
    flipped = cells[:, ::-1] if orientation in (2, 4, 5, 7) else cells
    quarters = {1: 0, 2: 0, 3: 2, 4: 2, 5: 1, 6: 3, 7: 3, 8: 1}[orientation]
    return np.rot90(flipped, quarters)


def middles(image: Image.Image, shape: tuple[int, ...]) -> np.ndarray:
    """Return the pixel in the middle of each cell of a picture of so many rows and columns."""
    pixels = np.asarray(image).astype(float)
    rows = ((np.arange(shape[0]) + 0.5) * pixels.shape[0] / shape[0]).astype(int)
    columns = ((np.arange(shape[1]) + 0.5) * pixels.shape[1] / shape[1]).astype(int)
    return pixels[rows][:, columns]


def _from_ycc(cells: np.ndarray) -> np.ndarray:
    """Follow JFIF."""
    y, blue, red = cells[..., 0], cells[..., 1] - 128, cells[..., 2] - 128
    found = [y + 1.402 * red, y - 0.344136 * blue - 0.714136 * red, y + 1.772 * blue]
    return np.stack(found, -1).clip(0, 255)


def _from_lab(cells: np.ndarray) -> np.ndarray:
    """Follow CIE, white at D50 as ICC profiles have it, and IEC 61966-2-1."""
    light = cells[..., 0] * 100 / 255
    green, blue = cells[..., 1] - 128, cells[..., 2] - 128
    middle = (light + 16) / 116
    curve = np.stack([middle + green / 500, middle, middle - blue / 200], -1)
    straight = np.where(curve > 6 / 29, curve**3, 3 * (6 / 29) ** 2 * (curve - 4 / 29))
    xyz = straight * np.array([0.9642, 1.0, 0.8249])
    matrix = np.array(
        [
            [3.1338561, -1.6168667, -0.4906146],
            [-0.9787684, 1.9161415, 0.0334540],
            [0.0719453, -0.2289914, 1.4052427],
        ]
    )
    linear = (xyz @ matrix.T).clip(0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
