"""Questions from a JSONL file; a line that cannot be used is reported, and the rest goes on."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from ..errors import ArgumentError
from ..prompting import read_image
from .items import Item


@dataclass(frozen=True)
class Problem:
    """Something that could not be asked, and why."""

    where: str
    reason: str

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}"


def read_jsonl(
    path: Path,
    answered: bool = True,
    check: Callable[[Sequence[str], Sequence[str]], None] = lambda answers, choices: None,
) -> tuple[list[Item], list[Problem]]:
    """Read the questions of a file, and the problems of the lines that hold none.

    Image files are looked at, not decoded: one that breaks off is found when it is asked about.

    Parameters
    ----------
    answered : bool
        Whether every question must have its answers; they are not read where not.
    check : callable
        Takes a line's answers and choices; raises `ValueError` where they cannot be used.

    Raises
    ------
    ArgumentError
        If the file cannot be read.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise ArgumentError.of("data", str(path), f"a file that can be read ({error})") from None
    items: dict[str, tuple[Item, int]] = {}
    problems: list[Problem] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            item = _item(line, path, number, answered)
            check(item.answers, item.choices)
            if item.id in items:
                raise ValueError(f"id {item.id!r} is that of line {items[item.id][1]} already")
        except (ValueError, RecursionError) as error:
            problems.append(Problem(f"{path.name} line {number}", " ".join(str(error).split())))
        else:
            items[item.id] = item, number
    return [item for item, _ in items.values()], problems


def _item(line: bytes, path: Path, number: int, answered: bool) -> Item:
    value = json.loads(line)
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    images = [path.parent / name for name in _texts(value, "image", "images")]
    for image in images:
        _check_image(image)
    identity = value.get("id", f"{path.stem}:{number}")
    if isinstance(identity, bool) or not isinstance(identity, (str, int)):
        raise ValueError(f"id = {identity!r}; allowed: a text or a whole number")
    return Item(
        str(identity),
        path.name,
        _texts(value, "question")[0],
        _texts(value, "answers", "answer") if answered else (),
        _text(value.get("category", ""), "category"),
        _texts(value, "choices") if value.get("choices") else (),
        str(images[0]),
        content_of(images),
        functools.partial(_read, images),
    )


def content_of(images: Sequence[Path]) -> str:
    """Return a SHA-256 over the files, so that a run is not gone on with over other pictures."""
    found = hashlib.sha256()
    for image in images:
        found.update(image.read_bytes())
    return found.hexdigest()


def _read(images: Sequence[Path]) -> tuple[Image.Image, ...]:
    return tuple(read_image(image) for image in images)


def _texts(value: Mapping[str, Any], *names: str) -> tuple[str, ...]:
    """Return one text or several under the first of ``names`` that is there."""
    name = next((name for name in names if name in value), None)
    if name is None:
        raise ValueError(f"no {' or '.join(map(repr, names))}")
    given = value[name]
    several = given if isinstance(given, list) else [given]
    if not several:
        raise ValueError(f"{name} = []; allowed: one text or more")
    return tuple(_text(one, name) for one in several)


def _text(value: object, name: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{name} = {value!r}; allowed: a text")
    return value


def _check_image(path: Path) -> None:
    try:
        with Image.open(path):
            pass
    except FileNotFoundError:
        raise ValueError(f"image = {str(path)!r}; allowed: a file that exists") from None
    except (UnidentifiedImageError, OSError, SyntaxError):
        raise ValueError(f"image = {str(path)!r}; allowed: an image file") from None
