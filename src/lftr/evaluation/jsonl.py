"""Questions from a JSONL file; a line that cannot be used is reported, and the rest goes on."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from ..errors import ArgumentError
from ..media import ALLOWED, Clip, Picking, is_clip, load_clip
from ..prompting import Medium, read_image
from .fields import ANSWERS, CLIPS, STILLS, check_fields
from .items import Item
from .problems import Problem


def read_jsonl(
    path: Path,
    answered: bool = True,
    check: Callable[[Sequence[str], Sequence[str]], None] = lambda answers, choices: None,
    picking: Picking = Picking(),  # noqa: B008  (a value)
) -> tuple[list[Item], list[Problem]]:
    """Read the questions of a file, and the problems of the lines that hold none.

    Image files are looked at, not decoded: one that breaks off is found when it is asked about.

    Parameters
    ----------
    answered : bool
        Whether every question must have its answers; they are not read where not.
    check : callable
        Takes a line's answers and choices; raises `ValueError` where they cannot be used.
    picking : Picking
        Which frames of clips are read.

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
            item = _item(line, path, number, answered, picking)
            check(item.answers, item.choices)
            if item.id in items:
                raise ValueError(f"id {item.id!r} is that of line {items[item.id][1]} already")
        except (ValueError, RecursionError) as error:
            problems.append(Problem(f"{path.name} line {number}", " ".join(str(error).split())))
        else:
            items[item.id] = item, number
    return [item for item, _ in items.values()], problems


def _item(line: bytes, path: Path, number: int, answered: bool, picking: Picking) -> Item:
    value = json.loads(line)
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    check_fields(value, answered)
    stills = _paths(value, path.parent, STILLS)
    clips = _paths(value, path.parent, CLIPS)
    if not stills and not clips:
        raise ValueError("no 'image', 'images', 'video' or 'videos'")
    for still in stills:
        _check_image(still)
    for clip in clips:
        check_clip(clip)
    identity = value.get("id", f"{path.stem}:{number}")
    if isinstance(identity, bool) or not isinstance(identity, (str, int)):
        raise ValueError(f"id = {identity!r}; allowed: a text or a whole number")
    return Item(
        str(identity),
        path.name,
        _question(value),
        _texts(value, *ANSWERS) if answered else (),
        _text(value.get("category", ""), "category"),
        _texts(value, "choices") if value.get("choices") else (),
        str([*stills, *clips][0]),
        content_of([*stills, *clips], picking if clips else None),
        functools.partial(_read, stills, clips, picking),
        bool(clips),
    )


def content_of(paths: Sequence[Path], picking: Picking | None = None) -> str:
    """Return a SHA-256 over files, so that a run is not gone on with over other pictures.

    Folders stand for the files in them; of clips, which frames are picked counts too.
    """
    found = hashlib.sha256(b"" if picking is None else repr(picking).encode())
    for path in paths:
        for file in sorted(path.iterdir()) if path.is_dir() else [path]:
            if file.is_file():
                with file.open("rb") as content:
                    found.update(hashlib.file_digest(content, "sha256").digest())
    return found.hexdigest()


def _read(stills: Sequence[Path], clips: Sequence[Path], picking: Picking) -> tuple[Medium, ...]:
    return (*map(read_image, stills), *(read_clip(clip, picking) for clip in clips))


def read_clip(path: Path, picking: Picking) -> Clip:
    """Read a clip's frames, as `lftr.media.load_clip` does."""
    return load_clip(path, picking.frames, picking.fps)


def _paths(value: Mapping[str, Any], folder: Path, names: Sequence[str]) -> list[Path]:
    """Return the paths under the one of ``names`` that is there; none where none is."""
    if not any(name in value for name in names):
        return []
    return [folder / text for text in _texts(value, *names)]


def _question(value: Mapping[str, Any]) -> str:
    if "question" not in value:
        raise ValueError("no 'question'")
    return _text(value["question"], "question")


def _texts(value: Mapping[str, Any], *names: str) -> tuple[str, ...]:
    """Return one text or several under the one of ``names`` that is there."""
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


def check_clip(path: Path) -> None:
    """Look at a clip without decoding it.

    Raises
    ------
    ValueError
        If there is none.
    """
    if not path.exists():
        raise ValueError(f"video = {str(path)!r}; allowed: a path that exists")
    if not is_clip(path) or (path.is_file() and not path.stat().st_size):
        raise ValueError(f"video = {str(path)!r}; allowed: {ALLOWED}")


def _check_image(path: Path) -> None:
    try:
        with Image.open(path):
            pass
    except FileNotFoundError:
        raise ValueError(f"image = {str(path)!r}; allowed: a file that exists") from None
    except (UnidentifiedImageError, OSError, SyntaxError):
        raise ValueError(f"image = {str(path)!r}; allowed: an image file") from None
