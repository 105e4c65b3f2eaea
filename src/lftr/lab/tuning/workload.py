"""Questions without answers: a folder of images with prompts, or a JSONL file."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from ...media import (
    PICTURES,
    VIDEOS,
    Picking,
    is_clip,
    is_named_as,
    load_clip,
    look_at_clip,
    look_at_image,
    read_image,
)
from ...prompting import ImageOrClip
from ...values.errors import ArgumentError, LftrError
from ...values.textfile import read_text
from .. import suites
from ..asking.data import load_data
from ..asking.items import Item
from ..asking.jsonl import content_of, read_jsonl
from ..asking.problems import Problem

PROMPTS = "prompts.txt"
_UNREAD = frozenset(  # picture formats that neither Pillow nor FFmpeg decodes as they look
    {".jxl", ".svg", ".psd", ".exr", ".hdr", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf"}
    | {".rw2", ".raf"}
)
_MEDIA = PICTURES | VIDEOS | _UNREAD


@dataclass(frozen=True)
class Workload:
    """Questions without right answers, grouped by image.

    Attributes
    ----------
    name : str
        The folder or the file.
    groups : sequence of tuple of Item
        The questions of each image: answers about one image are not independent, so an image
        counts once.
    problems : sequence of Problem
        Files and lines that are left out, with the reason.
    """

    name: str
    groups: Sequence[tuple[Item, ...]]
    problems: Sequence[Problem] = ()

    @property
    def items(self) -> list[Item]:
        """All questions."""
        return [item for group in self.groups for item in group]

    @classmethod
    def of(cls, name: str, items: Iterable[Item], problems: Sequence[Problem] = ()) -> Workload:
        """Group questions by their first image; a question without a file is a group."""
        groups: dict[str, list[Item]] = {}
        for item in items:
            groups.setdefault(item.image or f"\0{item.id}", []).append(item)
        return cls(name, [tuple(group) for group in groups.values()], problems)


def load_workload(
    source: str | Path,
    prompts: Sequence[str] = (),
    n: int | None = None,
    seed: int = 0,
    split: str = "test",
    picking: Picking = Picking(),  # noqa: B008  (a value)
) -> Workload:
    """Read a folder of images and clips, or a JSONL file with a question in every line.

    Parameters
    ----------
    source : str or Path
        Folder, file, or the name of a suite.
    n : int, optional
        Largest number of questions; by default 240 of a suite, all of a folder or file.
    seed, split : int, str
        Of a suite: which scenes.
    picking : Picking
        Which frames of clips are read.
    prompts : sequence of str
        Questions about every image of a folder; by default the lines of its ``prompts.txt``.

    Raises
    ------
    ArgumentError
        If the source does not exist, a folder has no prompts, prompts are passed for a file or a
        suite, or no question can be asked.
    """
    if source in suites.NAMES:
        if prompts:
            raise ArgumentError.of(
                "prompt", prompts[0], "a folder of images; a suite has questions"
            )
        return Workload.of(str(source), load_data(str(source), split=split, n=n, seed=seed).items)
    path = Path(source)
    if path.is_dir():
        workload = _folder(path, prompts or _prompts(path), picking)
    elif not path.is_file():
        allowed = (
            f"a folder of images or clips, a JSONL file, or a suite: {', '.join(suites.NAMES)}"
        )
        raise ArgumentError.of("workload", str(path), allowed)
    elif prompts:
        raise ArgumentError.of("prompt", prompts[0], "a folder of images; this file has questions")
    else:
        workload = Workload.of(path.name, *read_jsonl(path, answered=False, picking=picking))
    if not workload.groups:
        first = f" ({workload.problems[0]})" if workload.problems else ""
        raise ArgumentError.of("workload", str(path), f"at least one image and question{first}")
    return Workload.of(workload.name, workload.items[:n], workload.problems)


def _prompts(folder: Path) -> list[str]:
    try:
        lines = StringIO(read_text(folder / PROMPTS), newline=None)
    except (OSError, UnicodeDecodeError) as error:
        allowed = f"a question, or a {PROMPTS} in {str(folder)!r}, one on each line ({error})"
        raise ArgumentError.of("prompt", None, allowed) from None
    prompts = [line.strip() for line in lines if line.strip()]
    if not prompts:
        raise ArgumentError.of("prompt", None, f"a question; {str(folder / PROMPTS)!r} has none")
    return prompts


def _folder(folder: Path, prompts: Sequence[str], picking: Picking) -> Workload:
    items: list[Item] = []
    problems: list[Problem] = []
    for path in sorted(folder.iterdir()):
        try:
            if path.is_dir():
                _refuse_subfolder(path)
                continue
            if not is_named_as(path, _MEDIA):
                continue
            if path.suffix.lower() in _UNREAD:
                raise ArgumentError.of("image", path.name, "PNG, JPEG...: this format is not read")
            read, moves = _reader(path, picking)
            content = content_of([path], picking if moves else None)
        except (LftrError, OSError) as error:
            problems.append(Problem(path.name, str(error)))
            continue
        items += [
            Item(
                f"{path.name}:{n}",
                folder.name,
                prompt,
                (),
                image=str(path),
                content=content,
                read=read,
                moves=moves,
            )
            for n, prompt in enumerate(prompts, 1)
        ]
    return Workload.of(folder.name, items, problems)


def _refuse_subfolder(folder: Path) -> None:
    """Refuse a folder within the workload's folder if it has pictures or videos.

    Its pictures may be the frames of one clip or separate pictures, which cannot be known.
    """
    if folder.name.startswith(".") or not any(
        is_named_as(one, _MEDIA) for one in folder.rglob("*")
    ):
        return
    allowed = (
        "files, since a folder within the workload's is not read: give it as a workload of its own,"
        ' or, if it holds the frames of a clip, as the "video" of a line of JSONL'
    )
    raise ArgumentError.of("folder", folder.name, allowed)


def _reader(path: Path, picking: Picking) -> tuple[Callable[[], Sequence[ImageOrClip]], bool]:
    """Return a function that reads a file, and whether it is a clip; nothing is decoded yet."""
    if is_clip(path):
        look_at_clip(path)
        return functools.partial(_clip, path, picking), True
    look_at_image(path)
    return functools.partial(_still, path), False


def _still(path: Path) -> tuple[ImageOrClip, ...]:
    return (read_image(path),)


def _clip(path: Path, picking: Picking) -> tuple[ImageOrClip, ...]:
    return (load_clip(path, picking.frames, picking.fps),)
