"""What an evaluation asks, wherever it comes from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from ...media.clip import Clip
from ...prompting import Medium
from .. import suites


class Asked(Protocol):
    """What can be asked: some images or clips and a question about them."""

    @property
    def images(self) -> Sequence[Medium]:
        """The images and clips, in the order of the prompt."""

    @property
    def question(self) -> str:
        """The prompt's text."""


@dataclass(frozen=True)
class Question:
    """A question with its images and clips read."""

    images: Sequence[Medium]
    question: str

    @classmethod
    def of(cls, example: suites.Example | suites.Clip) -> Question:
        """Take over an example of a suite; the frames of a clip become one."""
        return cls(_media(example), example.question)


@dataclass(frozen=True)
class Item:
    """One question about some images, with what may be answered.

    Attributes
    ----------
    id : str
        Unique in a run.
    task : str
        The data set; relative scores are of each, then averaged.
    question : str
        The prompt's text, as it stands.
    answers : tuple of str
        Any of them is right; metrics say how.
    category : str
        Scored apart; may be empty.
    choices : tuple of str
        Of a multiple choice, in the order of their letters.
    image : str or None
        Path of the first image, where it is a file.
    content : str
        What tells the images' content from another, where they are files.
    read : callable
        Returns the images and clips.
    moves : bool
        Whether there is a clip among them.
    place : str
        Where it is written, as ``mine.jsonl line 3``; empty where the id says so.
    """

    id: str
    task: str
    question: str
    answers: tuple[str, ...]
    category: str = ""
    choices: tuple[str, ...] = ()
    image: str | None = None
    content: str = ""
    read: Callable[[], Sequence[Medium]] = field(default=tuple, repr=False, compare=False)
    moves: bool = False
    place: str = ""

    @property
    def told(self) -> str:
        """What it is called where it is left out: its id, and where that is written."""
        return f"{self.id} ({self.place})" if self.place else self.id

    @property
    def images(self) -> Sequence[Medium]:
        """The images and clips, read anew."""
        return self.read()

    def asked(self) -> Question:
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
        example: suites.Example | suites.Clip,
        task: str,
        again: Callable[[], suites.Example | suites.Clip],
    ) -> Item:
        """Take over an example of a suite, but for its images, which ``again`` draws anew."""
        return cls(
            example.scene,
            task,
            example.question,
            (example.answer,),
            example.category,
            example.choices,
            read=lambda: _media(again()),
            moves=isinstance(example, suites.Clip),
        )


def _media(example: suites.Example | suites.Clip) -> tuple[Medium, ...]:
    """Return an example's image, or its frames as one clip, a frame a second."""
    if isinstance(example, suites.Clip):
        return (Clip(example.images, tuple(map(float, range(len(example.images))))),)
    return example.images


def digest(items: Iterable[Item]) -> str:
    """Return a SHA-256 of all that an answer and its score depend on, in order."""
    found = hashlib.sha256()
    for item in items:
        asked = [item.id, item.task, item.question, item.content]
        line = [*asked, list(item.answers), item.category, list(item.choices)]
        found.update(json.dumps(line, ensure_ascii=False).encode(errors="surrogatepass") + b"\n")
    return found.hexdigest()
