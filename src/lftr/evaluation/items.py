"""What an evaluation asks, wherever it comes from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from PIL import Image

from ..suites import Example


@dataclass(frozen=True)
class Question:
    """A question with its images read."""

    images: Sequence[Image.Image]
    question: str


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
        Returns the images.
    """

    id: str
    task: str
    question: str
    answers: tuple[str, ...]
    category: str = ""
    choices: tuple[str, ...] = ()
    image: str | None = None
    content: str = ""
    read: Callable[[], Sequence[Image.Image]] = field(default=tuple, repr=False, compare=False)

    @property
    def images(self) -> Sequence[Image.Image]:
        """The images, read anew."""
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
    def of(cls, example: Example, task: str, read: Callable[[], Sequence[Image.Image]]) -> Item:
        """Take over an example of a suite, but for its image, which ``read`` draws again."""
        return cls(
            example.scene,
            task,
            example.question,
            (example.answer,),
            example.category,
            example.choices,
            read=read,
        )


def digest(items: Iterable[Item]) -> str:
    """Return a SHA-256 of all that an answer and its score depend on, in order."""
    found = hashlib.sha256()
    for item in items:
        asked = [item.id, item.task, item.question, item.content]
        line = [*asked, list(item.answers), item.category, list(item.choices)]
        found.update(json.dumps(line, ensure_ascii=False).encode() + b"\n")
    return found.hexdigest()
