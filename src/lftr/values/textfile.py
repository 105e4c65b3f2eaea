"""Read text files that users write."""

from __future__ import annotations

import codecs
from pathlib import Path

_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_utf8(path: str | Path) -> bytes:
    """Return a text file's content as UTF-8 without a byte order mark, which Windows likes to add.

    A file that begins with the byte order mark of UTF-16 is decoded as such. Other bytes are
    returned unchanged; whether they are valid UTF-8 is not checked.

    Raises
    ------
    OSError
        If it cannot be read.
    UnicodeDecodeError
        If it begins with the mark of UTF-16 and is not valid UTF-16.
    """
    content = Path(path).read_bytes()
    if content.startswith(_UTF_16):
        return content.decode("utf-16").encode()
    return content.removeprefix(codecs.BOM_UTF8)


def read_text(path: str | Path) -> str:
    """Return a text file's content, see `read_utf8`.

    Raises
    ------
    OSError
        If it cannot be read.
    UnicodeDecodeError
        If it is not valid UTF-8.
    """
    return read_utf8(path).decode("utf-8")
