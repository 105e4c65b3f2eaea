"""Questions about images and clips, of suites and of files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from ...media.clip import Clip
from ...prompting import ImageOrClip
from .. import suites


class QuestionLike(Protocol):
    """A question with its images and clips, as a protocol."""

    @property
    def images(self) -> Sequence[ImageOrClip]:
        """The images and clips, in the order of the prompt."""

    @property
    def question(self) -> str:
        """The prompt's text."""


@dataclass(frozen=True)
class Question:
    """A question with its images and clips read."""

    images: Sequence[ImageOrClip]
    question: str

    @classmethod
    def of(cls, example: suites.Example | suites.ClipExample) -> Question:
        """Convert an example of a suite; the frames of a clip become one `Clip`."""
        return cls(_media(example), example.question)


@dataclass(frozen=True)
class Item:
    """One question about images or clips, with its right answers.

    Attributes
    ----------
    id : str
        Unique in a run.
    task : str
        The data set; relative scores are computed for each, then averaged.
    question : str
        The prompt's text, unchanged.
    answers : tuple of str
        The right answers; the metric decides how they are compared.
    category : str
        A group of questions that reports score separately; may be empty.
    choices : tuple of str
        The options of a multiple-choice question, in the order of their letters.
    image : str or None
        Path of the first image if it is a file.
    content : str
        Digest of the images' content if they are files.
    read : callable
        Returns the images and clips.
    moves : bool
        Whether there is a clip among them.
    place : str
        Its place in a file, as ``mine.jsonl line 3``; empty if the id names it.
    """

    id: str
    task: str
    question: str
    answers: tuple[str, ...]
    category: str = ""
    choices: tuple[str, ...] = ()
    image: str | None = None
    content: str = ""
    read: Callable[[], Sequence[ImageOrClip]] = field(default=tuple, repr=False, compare=False)
    moves: bool = False
    place: str = ""

    @property
    def label(self) -> str:
        """Its name in a list of problems: the id, and its place in a file."""
        return f"{self.id} ({self.place})" if self.place else self.id

    @property
    def images(self) -> Sequence[ImageOrClip]:
        """The images and clips; each access reads them again."""
        return self.read()

    def to_question(self) -> Question:
        """Read the images.

        Raises
        ------
        LftrError
            If one cannot be read.
        """
        return Question(self.images, self.question)

    @classmethod
    def of(
        cls,
        example: suites.Example | suites.ClipExample,
        task: str,
        again: Callable[[], suites.Example | suites.ClipExample],
    ) -> Item:
        """Convert an example of a suite without its images, which ``again`` draws when needed."""
        return cls(
            example.scene,
            task,
            example.question,
            (example.answer,),
            example.category,
            example.choices,
            read=lambda: _media(again()),
            moves=isinstance(example, suites.ClipExample),
        )


def _media(example: suites.Example | suites.ClipExample) -> tuple[ImageOrClip, ...]:
    """Return an example's image, or its frames as a clip with one frame per second."""
    if isinstance(example, suites.ClipExample):
        return (Clip(example.images, tuple(map(float, range(len(example.images))))),)
    return example.images


def digest(items: Iterable[Item]) -> str:
    """Return a SHA-256 of everything in the questions that answers and scores depend on."""
    total = hashlib.sha256()
    for item in items:
        fields = [item.id, item.task, item.question, item.content]
        line = [*fields, list(item.answers), item.category, list(item.choices)]
        total.update(json.dumps(line, ensure_ascii=False).encode(errors="surrogatepass") + b"\n")
    return total.hexdigest()
