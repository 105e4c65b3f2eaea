"""The two suites as their common tests see them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from lftr import suites
from lftr.lab.suites import SceneObject, Track
from lftr.lab.suites.clips import draw_clip
from lftr.lab.suites.layout import SIDE
from lftr.lab.suites.scenes import draw
from lftr.lab.suites.tracks import CLIP_SIDE, FRAMES

from .solvers import solve_clip, solve_scene

Shown = Sequence[Sequence[SceneObject]]


@dataclass(frozen=True)
class Suite:
    """A suite, and how its questions are drawn without the time that pictures take.

    Attributes
    ----------
    n : int
        How many examples the tests look at, pictures and all.
    asked, blind : int, float
        How many questions a reader without eyes is asked, and how often it may be right.
    objects : tuple of int
        Fewest and most in a scene.
    shown : callable
        Returns what each picture shows of some objects.
    """

    name: str
    n: int
    asked: int
    blind: float
    categories: Sequence[str]
    stream: Sequence[int]
    draw: Callable[..., Any]
    solve: Callable[[str, Any], str]
    images: int
    side: int
    objects: tuple[int, int]
    shown: Callable[[Any], Shown]

    def load(self, n: int, **options: Any) -> Sequence[Any]:
        return suites.load(self.name, n=n, **options)

    def drawn(self, split: str = "test", n: int = 1400, seed: int = 0) -> list[Any]:
        """Return objects and question of the first ``n``."""
        return [_drawn(self.name, split, seed, i) for i in range(n)]


@cache
def _drawn(name: str, split: str, seed: int, i: int) -> Any:
    suite = SUITES[name]
    rng = np.random.default_rng([suites.SPLITS.index(split), seed, i, *suite.stream])
    return suite.draw(rng, split, suite.categories[i % len(suite.categories)])


def _frames(tracks: Sequence[Track]) -> Shown:
    return [
        [state for track in tracks if (state := track.states[frame])] for frame in range(FRAMES)
    ]


SCENES = Suite(
    "scenes",
    n=240,
    asked=3000,
    blind=0.32,
    categories=suites.CATEGORIES,
    stream=(),
    draw=draw,
    solve=solve_scene,
    images=1,
    side=SIDE,
    objects=(2, 8),
    shown=lambda objects: [objects],
)
CLIPS = Suite(
    "clips",
    n=56,
    asked=1400,
    blind=0.36,
    categories=suites.CLIP_CATEGORIES,
    stream=(2,),
    draw=draw_clip,
    solve=solve_clip,
    images=FRAMES,
    side=CLIP_SIDE,
    objects=(1, 5),
    shown=_frames,
)
SUITES = {suite.name: suite for suite in (SCENES, CLIPS)}


def digest(examples: Iterable[Any]) -> str:
    """Return a digest of all that examples show and ask."""
    told = hashlib.sha256()
    for example in examples:
        for image in example.images:
            told.update(image.tobytes())
        asked = (example.question, example.answer, getattr(example, "frames", ()))
        told.update(repr(asked).encode())
    return told.hexdigest()
