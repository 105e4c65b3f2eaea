"""Questions from a JSONL file; a line that cannot be used is reported and skipped."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...media import Picking, frames_in, load_clip, look_at_clip, look_at_image, read_image
from ...prompting import ImageOrClip
from ...values.errors import ArgumentError, LftrError
from ...values.textfile import read_utf8
from .fields import ANSWERS, CLIPS, STILLS, check_fields
from .items import Item
from .problems import Problem


def read_jsonl(
    path: Path,
    answered: bool = True,
    check: Callable[[Sequence[str], Sequence[str]], None] = lambda answers, choices: None,
    picking: Picking = Picking(),  # noqa: B008  (a value)
) -> tuple[list[Item], list[Problem]]:
    """Return the questions of a file, and a problem for each line that cannot be used.

    Image files are opened but not decoded: a truncated one is found when its question is asked.

    Parameters
    ----------
    answered : bool
        Whether each line must have answers; if not, they are not read.
    check : callable
        Takes a line's answers and choices; raises `ValueError` if they cannot be used.
    picking : Picking
        Which frames of clips are read.

    Raises
    ------
    ArgumentError
        If the file cannot be read.
    """
    try:
        lines = read_utf8(path).splitlines()
    except (OSError, UnicodeDecodeError) as error:
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
        except (LftrError, ValueError, RecursionError, OSError) as error:
            problems.append(Problem(_place(path, number), " ".join(str(error).split())))
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
        look_at_image(still)
    for clip in clips:
        look_at_clip(clip)
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
        _place(path, number) if "id" in value else "",
    )


def _place(path: Path, number: int) -> str:
    return f"{path.name} line {number}"


def content_of(paths: Sequence[Path], picking: Picking | None = None) -> str:
    """Return a SHA-256 of files, so that a run is not continued with other pictures.

    A folder counts as its frames; for clips the picked frames are part of the digest.
    """
    total = hashlib.sha256(b"" if picking is None else repr(picking).encode())
    for path in paths:
        for file in frames_in(path) if path.is_dir() else [path]:
            with file.open("rb") as content:
                total.update(hashlib.file_digest(content, "sha256").digest())
    return total.hexdigest()


def _read(
    stills: Sequence[Path], clips: Sequence[Path], picking: Picking
) -> tuple[ImageOrClip, ...]:
    read = (load_clip(clip, picking.frames, picking.fps) for clip in clips)
    return (*map(read_image, stills), *read)


def _paths(value: Mapping[str, Any], folder: Path, names: Sequence[str]) -> list[Path]:
    """Return the paths in the field of ``names`` that the line has; empty if it has none."""
    if not any(name in value for name in names):
        return []
    return [folder / text for text in _texts(value, *names)]


def _question(value: Mapping[str, Any]) -> str:
    if "question" not in value:
        raise ValueError("no 'question'")
    return _text(value["question"], "question")


def _texts(value: Mapping[str, Any], *names: str) -> tuple[str, ...]:
    """Return the texts in the field of ``names`` that the line has."""
    name = next((name for name in names if name in value), None)
    if name is None:
        raise ValueError(f"no {' or '.join(map(repr, names))}")
    field = value[name]
    several = field if isinstance(field, list) else [field]
    if not several:
        raise ValueError(f"{name} = []; allowed: one text or more")
    return tuple(_text(one, name) for one in several)


def _text(value: object, name: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{name} = {value!r}; allowed: a text")
    return value
