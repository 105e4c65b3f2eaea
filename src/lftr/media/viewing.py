"""Convert pictures of any mode to what a viewer shows: upright, RGB, transparency on white."""

from __future__ import annotations

import io
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

_ORIENTATION = 0x0112  # the EXIF tag, and TIFF's
_BITS, _PHOTOMETRIC, _SAMPLES = 258, 262, 339  # tags of TIFF
_WHITE_IS_ZERO, _UNSIGNED = 0, 1
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_DEEP = ("I", "F")  # modes with more than 8 bits, besides I;16 in several byte orders
_UNIT = (-0.5, 1.5)  # float values between these are taken as 0 to 1, with some overshoot
# colour spaces of ICC, as modes of Pillow
_SPACES = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK", "Lab ": "LAB"}
_SAME = 2  # of 255 levels: a profile that changes no colour by more is ignored
_BROKEN_PROFILE = (ImageCms.PyCMSError, ImportError, OSError, TypeError, ValueError)


def as_viewed(image: Image.Image) -> Image.Image:
    """Return a picture as RGB, the way a viewer shows it.

    Orientation (EXIF, XMP) is applied, transparency is put on white, an ICC profile is converted
    to sRGB if Pillow has LittleCMS, and modes with more than 8 bits are scaled from their range:

    - 16-bit grey from 0 to 65535, and TIFF of 9 to 16 bits from 0 to what its bits hold;
    - floats from 0 to 1 if their values lie there (an overshoot by a half is clipped);
    - other values (32-bit integers, other floats), whose files do not tell the range, from the
      smallest range that holds them: 0 to 255, 0 to 65535, or from 0 or the least value to the
      greatest.

    Parameters
    ----------
    image : PIL.Image.Image
        A picture of any mode, at its current frame. It is loaded, not changed.

    Returns
    -------
    PIL.Image.Image
        RGB, without orientation, profile or transparency, so that a second call changes nothing.
        ``image`` itself if there is nothing to convert and it has no file.

    Raises
    ------
    Exception
        Any error of Pillow about a file that it cannot decode; see `faults.refusing`.
    """
    _load(image)
    turn = _TURNS.get(_orientation(image))
    profile = image.info.get("icc_profile")
    if image.mode == "RGB" and turn is None and not (profile or image.has_transparency_data):
        return image if type(image) is Image.Image else image.copy()
    colours, alpha = _split_alpha(image)
    rgb = _in_srgb(colours, profile) if profile else colours.convert("RGB")
    if alpha is not None:
        white = Image.new("RGB", image.size, "white")
        white.paste(rgb, mask=alpha)
        rgb = white
    plain = rgb if turn is None else rgb.transpose(turn)
    plain = plain.copy() if plain is image else plain
    plain.info.clear()
    return plain


def _load(image: Image.Image) -> None:
    """Load a picture; for TIFF, this also applies and removes the orientation.

    If Pillow knows the file name of an uncompressed TIFF, it maps the file into memory, and
    Pillow 12 scrambles such a picture when it rotates it by 90 degrees. So the name is hidden.
    """
    name = getattr(image, "filename", "")
    if image.format != "TIFF" or not name:
        image.load()
        return
    image.filename = ""  # type: ignore[attr-defined]
    try:
        image.load()
    finally:
        image.filename = name  # type: ignore[attr-defined]


def _orientation(image: Image.Image) -> Any:
    try:
        return image.getexif().get(_ORIENTATION)
    except Exception:  # damaged EXIF, for which Pillow raises any error; viewers ignore it
        return None


def _split_alpha(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Return the colours of a picture, in 8 bits, and its alpha channel if it has one."""
    if image.mode in _DEEP or image.mode.startswith("I;16"):
        return _deep(image)
    if image.has_transparency_data:
        whole = image.convert("LA" if image.mode == "La" else "RGBA")
        return whole.convert(whole.mode[:-1]), whole.getchannel("A")
    if image.mode in _SPACES.values():
        return image, None
    return image.convert("L" if image.mode == "1" else "RGB"), None


def _deep(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Return a picture with more than 8 bits as 8-bit grey, and its alpha if it has one."""
    values, tags = np.asarray(image), getattr(image, "tag_v2", {})
    if image.mode == "I" and _first(tags, _SAMPLES) == _UNSIGNED:
        values = values.view(np.uint32)
    key = image.info.get("transparency")
    alpha = None if key is None else Image.fromarray(np.where(values == key, 0, 255).astype("u1"))
    low, high = _range(image, tags, values)
    scale = 255.0 / (high - low) if high > low else 0.0
    grey = (values.astype(np.float32) - low) * scale
    grey = np.nan_to_num(grey, nan=0.0, posinf=255.0, neginf=0.0).clip(0, 255).round()
    if _first(tags, _PHOTOMETRIC) == _WHITE_IS_ZERO:
        grey = 255.0 - grey  # Pillow inverts only 8-bit pictures itself
    return Image.fromarray(grey.astype(np.uint8)), alpha


def _range(image: Image.Image, tags: Any, values: NDArray[Any]) -> tuple[float, float]:
    """Return the values of black and white."""
    bits = _first(tags, _BITS)
    if image.mode.startswith("I;16"):
        return 0.0, 2.0 ** (bits if bits in range(9, 17) else 16) - 1
    if image.mode == "I" and image.format in ("PNG", "PPM"):  # these have 16 bits
        return 0.0, 65535.0
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    if image.mode == "F" and _UNIT[0] <= low and high <= _UNIT[1]:
        return 0.0, 1.0
    standard = (most for most in (255.0, 65535.0) if high <= most)
    return (min(low, 0.0), high) if low < 0 else (0.0, next(standard, high))


def _first(tags: Any, number: int) -> Any:
    """Return a tag of a TIFF, the first of several values, or None if it is missing."""
    value = tags.get(number)
    return value[0] if isinstance(value, tuple) and value else value


def _in_srgb(colours: Image.Image, profile: bytes) -> Image.Image:
    """Convert colours with their profile to sRGB; a profile of another mode is ignored."""
    space = _space(profile)
    if space == "RGB" and colours.mode == "L":
        colours = colours.convert("RGB")
    transform = _transform(profile, space) if space == colours.mode else None
    if transform is None:
        return colours.convert("RGB")
    rgb: Image.Image = ImageCms.applyTransform(colours, transform)  # type: ignore[assignment]
    return rgb


@lru_cache(maxsize=16)
def _space(profile: bytes) -> str | None:
    """Return the mode that a profile describes, or None if it is damaged or of another space."""
    try:
        return _SPACES.get(_open(profile).profile.xcolor_space)
    except _BROKEN_PROFILE:
        return None


@lru_cache(maxsize=16)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Return the transform from a profile to sRGB, or None if it would change nothing."""
    try:
        srgb = ImageCms.createProfile("sRGB")
        transform = ImageCms.buildTransform(_open(profile), srgb, mode, "RGB")
    except _BROKEN_PROFILE:
        return None
    if mode != "RGB":
        return transform
    levels = np.linspace(0, 255, 9, dtype=np.uint8)
    probe = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(9, 81, 3)
    moved = np.asarray(ImageCms.applyTransform(Image.fromarray(probe), transform), np.int16)
    return transform if np.abs(moved - probe).max() > _SAME else None


def _open(profile: bytes) -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(io.BytesIO(profile))
