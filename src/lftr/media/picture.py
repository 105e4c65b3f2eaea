"""Read still pictures; all of lftr reads pictures here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from ..values.errors import MissingExtraError
from .faults import refusing
from .viewing import as_viewed

PICTURES = frozenset(
    {".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".webp", ".bmp", ".dib", ".gif"}
    | {".tif", ".tiff", ".avif", ".avifs", ".jp2", ".j2k", ".jpx", ".ppm", ".pgm", ".pbm", ".pnm"}
    | {".pfm", ".tga", ".qoi", ".heic", ".heif", ".hif"}
)
_WHOLE = "an image that is whole (PNG, JPEG...)"
_HEIC = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}  # brands


def read_image(source: str | Path | Image.Image) -> Image.Image:
    """Return a file or a PIL image as RGB, upright, as a viewer shows it.

    If a file has several pictures (pages of a TIFF, the second picture of a phone's JPEG, frames
    of a GIF), the first one is read. See `viewing.as_viewed` for modes, depths and profiles.

    Raises
    ------
    ArgumentError
        If there is none, or it cannot be read; the message names the path.
    MissingExtraError
        If the file is HEIC and pillow-heif is not installed.
    """
    with refusing("image", source, _WHOLE):
        if isinstance(source, Image.Image):
            return as_viewed(source)
        with open_picture(source) as image:
            if image.format == "JPEG2000" and not _has_last_marker(source):
                raise OSError("the file breaks off")  # Pillow decodes what there is
            return as_viewed(image)


def _has_last_marker(path: str | Path) -> bool:
    """Whether the code of a JPEG 2000 picture goes on to its last marker.

    No compressed data hold these two bytes (ISO/IEC 15444-1, annex A).
    """
    content = Path(path).read_bytes()
    return b"\xff\xd9" in content[content.find(b"\xff\x4f\xff\x51") :]


def look_at_image(path: str | Path) -> None:
    """Check that a file is a picture by its first bytes, without decoding it.

    Raises
    ------
    ArgumentError, MissingExtraError
        As in `read_image`. A truncated picture passes.
    """
    with refusing("image", path, "an image file"), open_picture(path):
        pass


@contextmanager
def open_picture(path: str | Path) -> Iterator[Image.Image]:
    """Open a file with Pillow, HEIC with pillow-heif."""
    try:
        image = Image.open(path)
    except UnidentifiedImageError:
        if not _is_heic(path):
            raise
        _let_pillow_read_heic()
        image = Image.open(path)
    with image:
        yield image


def _is_heic(path: str | Path) -> bool:
    with Path(path).open("rb") as file:
        first = file.read(12)
    return first[4:8] == b"ftyp" and first[8:] in _HEIC


def _let_pillow_read_heic() -> None:
    try:
        import pillow_heif
    except ImportError:
        raise MissingExtraError.of("pillow-heif", "heic") from None
    pillow_heif.register_heif_opener()
