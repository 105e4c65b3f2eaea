"""The data classes of suites: examples, their questions and the objects in their pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from PIL import Image

_Object = TypeVar("_Object")


@dataclass(frozen=True)
class SceneObject:
    """A coloured shape or a handwritten digit in a scene.

    Attributes
    ----------
    kind : str
        A name of `SHAPES`, or ``"digit"``.
    colour : str
        A name of `COLOURS`.
    x, y : float
        Centre, in pixels from the top left corner.
    size : int
        Side of the square box around it, in pixels.
    angle : int
        Rotation in degrees, clockwise.
    value : int or None
        What a digit reads.
    sample : int or None
        Which handwritten sample is drawn (a row of ``sklearn.datasets.load_digits``).
    """

    kind: str
    colour: str
    x: float
    y: float
    size: int
    angle: int = 0
    value: int | None = None
    sample: int | None = None

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right and bottom edge in pixels."""
        half = self.size / 2
        return self.x - half, self.y - half, self.x + half, self.y + half


@dataclass(frozen=True)
class SuiteQuestion:
    """A question about a scene or a clip, with its only right answer.

    Attributes
    ----------
    referents : tuple of int
        The objects that the answer depends on; empty if the answer is that there is none.
    frames : tuple of int
        The frames of a clip that the answer depends on; empty for an image.
    """

    text: str
    answer: str
    category: str
    choices: tuple[str, ...]
    referents: tuple[int, ...]
    frames: tuple[int, ...] = ()


@dataclass(frozen=True)
class Answered(Generic[_Object]):
    """One item of a suite, an image or a clip.

    Attributes
    ----------
    images : tuple of PIL.Image.Image
        RGB, all of one size; the frames of a clip in the order of time.
    question, answer : str
        The answer is one lower-case word or number.
    category : str
        One of the suite's categories.
    choices : tuple of str
        Every answer that this kind of question can have, including the right one.
    scene : str
        Identifier of the scene: ``"split/seed/index"``.
    objects : tuple of SceneObject or Track
        All objects drawn over the background.
    referents : tuple of int
        Indices, in `objects`, of the objects that the answer depends on.
    """

    images: tuple[Image.Image, ...]
    question: str
    answer: str
    category: str
    choices: tuple[str, ...]
    scene: str
    objects: tuple[_Object, ...]
    referents: tuple[int, ...]

    def is_correct(self, answer: str) -> bool:
        """Whether a model's answer is right; case, outer spaces and a full stop are ignored."""
        return normalise(answer) == normalise(self.answer)


class Example(Answered[SceneObject]):
    """One item of the suite of scenes: a single image, with the attributes of `Answered`."""

    @property
    def image(self) -> Image.Image:
        """The one image, RGB."""
        return self.images[0]


def normalise(answer: str) -> str:
    """Return an answer in the form for comparison: lower case, no outer spaces or full stop."""
    return answer.strip().rstrip(".").strip().lower()
