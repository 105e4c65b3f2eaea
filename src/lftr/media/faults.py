"""Turn any error of a decoder into one `ArgumentError` that names the file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from ..values.errors import ArgumentError, LftrError, reason_of


@contextmanager
def refusing(name: str, source: object, allowed: str) -> Iterator[None]:
    """Turn an error while a file is read into an `ArgumentError` of one sentence.

    Decoders raise any class of error for damaged files: ``struct.error``, ``IndexError``,
    ``ZeroDivisionError``. The sentence ends with the text of that error.

    Parameters
    ----------
    name : str
        The name of the argument: "image", "video".
    source : object
        The path, or the other value of the argument.
    allowed : str
        What the file should be.
    """
    value = str(source) if isinstance(source, str | Path) else source
    try:
        yield
    except LftrError:
        raise
    except FileNotFoundError:
        raise ArgumentError.of(name, value, "a file that exists") from None
    except (IsADirectoryError, PermissionError):
        allowed = f"{allowed}, and one that can be read"
        raise ArgumentError.of(name, value, allowed) from None
    except UnidentifiedImageError:
        raise ArgumentError.of(name, value, allowed) from None
    except Image.DecompressionBombError as error:
        limit = f"no more pixels than twice PIL.Image.MAX_IMAGE_PIXELS ({error})"
        raise ArgumentError.of(name, value, f"{allowed}, of {limit}") from None
    except Exception as error:
        raise ArgumentError.of(name, value, f"{allowed} ({reason_of(error)})") from None
