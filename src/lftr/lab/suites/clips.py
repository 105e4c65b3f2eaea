"""The ``clips`` suite: eight frames in which shapes move, appear, vanish, change, flash."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from ...values.errors import ArgumentError
from .clip_questions import CLIP_CATEGORIES, TIMES, WAYS, ask_clip
from .drawn import SPLITS, Drawn
from .example import Answered, SuiteQuestion
from .layout import COLOURS, SHAPES
from .questions import DIGITS, YES_NO
from .render import render_clip
from .tracks import CLIP_SIDE, FRAMES, ROLES, Track, sample_tracks

_OBJECTS = (3, 5)
_STREAM = 2  # keeps the seeds of clips apart from those of scenes

# An answer is drawn first and a clip that has it is looked for, so that each is as frequent.
_ANSWERS: dict[str, tuple[str, ...]] = {
    "motion": WAYS,
    "flashes": TIMES,
    "order": (),  # two-way choices of the question's own: balanced as they are asked
    "digit": DIGITS,
    "change": tuple(COLOURS),
    "late": SHAPES,
    "vanishing": YES_NO,
}
# What a clip must hold before anything can be asked.
NEEDS: dict[str, tuple[str, ...]] = {
    "motion": ("mover",),
    "flashes": ("flasher",),
    "order": ("newcomer", "newcomer"),
    "digit": ("digit",),
    "change": ("changer",),
    "late": ("latecomer",),
    "vanishing": ("leaver", "still"),
}


@dataclass(frozen=True)
class ClipExample(Answered[Track]):
    """One item of the suite of clips, with the attributes of `Answered` and one more.

    Attributes
    ----------
    frames : tuple of int
        The frames that the answer depends on.
    """

    frames: tuple[int, ...]


@dataclass(frozen=True)
class Clips(Drawn[ClipExample]):
    """Short clips, 8 frames of 80x80. See `Drawn` for the parameters."""

    def _draw(self, index: int) -> ClipExample:
        rng = np.random.default_rng([SPLITS.index(self.split), self.seed, index, _STREAM])
        category = CLIP_CATEGORIES[index % len(CLIP_CATEGORIES)]
        tracks, question = draw_clip(rng, self.split, category)
        frames = render_clip(tracks, FRAMES, CLIP_SIDE, rng)
        return ClipExample(
            tuple(Image.fromarray(frame) for frame in frames),
            question.text,
            question.answer,
            question.category,
            question.choices,
            f"{self.split}/{self.seed}/{index}",
            tracks,
            question.referents,
            question.frames,
        )


def draw_clip(
    rng: np.random.Generator,
    split: str,
    category: str,
    most: int = _OBJECTS[1],
    frames: int = FRAMES,
) -> tuple[tuple[Track, ...], SuiteQuestion]:
    """Draw a clip's objects and a question of ``category`` about them.

    Parameters
    ----------
    most : int
        Largest number of objects in the clip.
    frames : int
        Length of the clip.
    """
    answers = _ANSWERS[category]
    wanted = str(answers[rng.integers(len(answers))]) if answers else None
    for _ in range(2000):
        count = int(rng.integers(min(_OBJECTS[0], most), most + 1))
        tracks = sample_tracks(rng, split, sample_roles(rng, count, NEEDS[category]), frames)
        for question in ask_clip(category, tracks, rng):
            if wanted in (None, question.answer):
                return tracks, question
    raise ArgumentError.of("most", most, f"enough objects for a question about {category}")


def sample_roles(
    rng: np.random.Generator, count: int, needed: tuple[str, ...] = ()
) -> tuple[str, ...]:
    """Return random roles for ``count`` objects, ``needed`` first, each at most twice."""
    free = [str(role) for role in rng.permutation([*ROLES, *ROLES])]
    for role in needed:
        free.remove(role)
    return (*needed, *free)[: max(count, len(needed))]
