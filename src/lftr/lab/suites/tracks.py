"""The objects of a clip and their states in each frame, as data; `render` draws them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from .digits import samples
from .example import SceneObject
from .layout import COLOURS, SHAPES

CLIP_SIDE = 80
FRAMES = 8

_SIZES = {"shape": (15, 20), "digit": (18, 22)}
_GAP = 3  # least distance between the areas that two objects ever cover, in pixels
_REACH = (16, 34)  # how far a moving object goes, in pixels
_DRIFT = 0.25  # how far it goes across its direction, as a share of that
_MOST_FLASHES = 3

States = tuple[SceneObject | None, ...]


@dataclass(frozen=True)
class Track:
    """One object over the frames of a clip.

    Attributes
    ----------
    states : tuple of SceneObject or None
        The object in each frame; ``None`` for frames in which it is not visible.
    """

    states: States

    @property
    def shown(self) -> tuple[int, ...]:
        """The frames in which the object is visible, in order."""
        return tuple(i for i, state in enumerate(self.states) if state is not None)

    @property
    def runs(self) -> tuple[tuple[int, ...], ...]:
        """The runs of consecutive frames in which the object is visible."""
        parts: list[tuple[int, ...]] = []
        for frame in self.shown:
            if parts and parts[-1][-1] == frame - 1:
                parts[-1] += (frame,)
            else:
                parts.append((frame,))
        return tuple(parts)

    @cached_property
    def looks(self) -> tuple[SceneObject, ...]:
        """The object in each frame of `shown`."""
        return tuple(state for state in self.states if state is not None)

    @property
    def kind(self) -> str:
        """A name of `SHAPES`, or ``"digit"``."""
        return self.looks[0].kind

    @property
    def colours(self) -> tuple[str, ...]:
        """The colours that the object has, in the order in which they first appear."""
        return tuple(dict.fromkeys(look.colour for look in self.looks))

    @property
    def flashes(self) -> tuple[int, ...]:
        """`shown`, if its frames are single ones before the last frame of the clip; else empty."""
        alone = all(len(run) == 1 for run in self.runs)
        return self.shown if alone and self.shown[-1] < len(self.states) - 1 else ()

    @cached_property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right and bottom edge, in pixels, of the area covered over all frames."""
        left, top, right, bottom = zip(*(look.box for look in self.looks), strict=True)
        return min(left), min(top), max(right), max(bottom)


def sample_tracks(
    rng: np.random.Generator, split: str, roles: Sequence[str], frames: int = FRAMES
) -> tuple[Track, ...]:
    """Draw a random object for each role, so that no two touch in any frame.

    If there is no room for an object, the clip has fewer objects.

    Parameters
    ----------
    roles : sequence of str
        Names of `ROLES`.
    frames : int
        Length of the clip, 4 or more.
    """
    colours = [str(c) for c in rng.permutation(list(COLOURS))[: rng.integers(3, 7)]]
    shapes = [str(s) for s in rng.permutation(SHAPES)[: rng.integers(3, 7)]]
    tracks: list[Track] = []
    for role in roles:
        look = _sample_look(rng, split, colours, shapes, role in ("digit", "number"))
        for _ in range(20):
            track = Track(ROLES[role](_place(rng, look), frames, colours, rng))
            if _fits(track, tracks):
                tracks.append(track)
                break
    return tuple(tracks[i] for i in rng.permutation(len(tracks)))


def _sample_look(
    rng: np.random.Generator, split: str, colours: Sequence[str], shapes: Sequence[str], digit: bool
) -> SceneObject:
    low, high = _SIZES["digit" if digit else "shape"]
    size, angle = int(rng.integers(low, high + 1)), 6 * int(rng.integers(-2, 3))
    colour = colours[int(rng.integers(len(colours)))]
    if not digit:
        return SceneObject(shapes[int(rng.integers(len(shapes)))], colour, 0, 0, size, angle)
    value = int(rng.integers(10))
    pool = samples(split, value)
    sample = pool[int(rng.integers(len(pool)))]
    return SceneObject("digit", colour, 0, 0, size, angle, value, sample)


def _place(rng: np.random.Generator, look: SceneObject) -> SceneObject:
    margin = look.size / 2 + 1
    x, y = rng.uniform(margin, CLIP_SIDE - margin, 2).round(1).tolist()
    return replace(look, x=x, y=y)


def _fits(track: Track, others: Sequence[Track]) -> bool:
    left, top, right, bottom = track.box
    inside = min(left, top) >= 1 and max(right, bottom) <= CLIP_SIDE - 1
    return inside and all(
        max(left - box[2], box[0] - right, top - box[3], box[1] - bottom) >= _GAP
        for box in (other.box for other in others)
    )


# The roles: each function returns the states of an object in all frames.


def _visible_in(look: SceneObject, frames: int, when: Sequence[int]) -> States:
    return tuple(look if frame in when else None for frame in range(frames))


def _stay(
    look: SceneObject, frames: int, colours: Sequence[str], rng: np.random.Generator
) -> States:
    return (look,) * frames


def _move(
    look: SceneObject, frames: int, colours: Sequence[str], rng: np.random.Generator
) -> States:
    """Move the object in one direction at constant speed, over two frames or more."""
    far = float(rng.uniform(*_REACH)) * (1 if rng.random() < 0.5 else -1)
    aside = float(rng.uniform(-_DRIFT, _DRIFT)) * far
    dx, dy = (far, aside) if rng.random() < 0.5 else (aside, far)
    start = int(rng.integers(0, frames - 2))
    end = int(rng.integers(start + 2, frames))
    shares = np.clip((np.arange(frames) - start) / (end - start), 0, 1).tolist()
    return tuple(
        replace(look, x=round(look.x + dx * share, 1), y=round(look.y + dy * share, 1))
        for share in shares
    )


def _flash(
    look: SceneObject, frames: int, colours: Sequence[str], rng: np.random.Generator
) -> States:
    """Show the object in one to three single frames, neither the first nor the last."""
    inner = frames - 2
    times = int(rng.integers(1, min(_MOST_FLASHES, (inner + 1) // 2) + 1))
    # choosing among fewer frames and then moving the chosen ones apart leaves a gap between any two
    chosen = np.sort(rng.permutation(inner - times + 1)[:times]) + np.arange(times)
    return _visible_in(look, frames, (1 + chosen).tolist())


def _blink(
    look: SceneObject, frames: int, colours: Sequence[str], rng: np.random.Generator
) -> States:
    """Show the object in one frame only, any but the first."""
    return _visible_in(look, frames, [int(rng.integers(1, frames))])


def _appear(
    look: SceneObject, frames: int, colours: Sequence[str], rng: np.random.Generator
) -> States:
    """Show the object from a frame after the first on, for three frames or more."""
    return _visible_in(look, frames, range(int(rng.integers(1, frames - 2)), frames))


def _arrive(
    look: SceneObject, frames: int, colours: Sequence[str], rng: np.random.Generator
) -> States:
    """Show the object in the last frame, or in the last two."""
    return _visible_in(look, frames, range(int(rng.integers(frames - 2, frames)), frames))


def _vanish(
    look: SceneObject, frames: int, colours: Sequence[str], rng: np.random.Generator
) -> States:
    """Show the object in the first frames, two or more, and not in the others."""
    return _visible_in(look, frames, range(int(rng.integers(2, frames))))


def _change(
    look: SceneObject, frames: int, colours: Sequence[str], rng: np.random.Generator
) -> States:
    """Change the colour of the object once, in any frame but the first."""
    others = [colour for colour in colours if colour != look.colour]
    after = replace(look, colour=others[int(rng.integers(len(others)))])
    when = int(rng.integers(1, frames))
    return tuple(look if frame < when else after for frame in range(frames))


ROLES: dict[str, Callable[[SceneObject, int, Sequence[str], np.random.Generator], States]] = {
    "still": _stay,
    "number": _stay,
    "mover": _move,
    "flasher": _flash,
    "digit": _blink,
    "newcomer": _appear,
    "latecomer": _arrive,
    "leaver": _vanish,
    "changer": _change,
}
