"""Still pictures."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, UnidentifiedImageError

from ..errors import ArgumentError


def read_image(path: str | Path) -> Image.Image:
    """Read an image file as RGB.

    Raises
    ------
    ArgumentError
        If there is none, or it cannot be read; the message names the path.
    """
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except FileNotFoundError:
        raise ArgumentError.of("image", str(path), "a file that exists") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        if isinstance(error, (IsADirectoryError, PermissionError)):
            raise ArgumentError.of("image", str(path), "a file that can be read") from None
        raise ArgumentError.of(
            "image", str(path), "an image that is whole (PNG, JPEG...)"
        ) from None
