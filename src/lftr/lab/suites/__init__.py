"""Procedural visual question answering: images, questions and answers generated from a seed.

``lftr.suites.load("scenes")`` and ``load("clips")`` return examples of the kind that the models of
`lftr.bundled` were trained on. Nothing is downloaded; the handwritten digits come with scikit-learn
(the extra ``suites``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, overload

from ...values.errors import ArgumentError
from ...values.renamed import former_names
from .clip_questions import CLIP_CATEGORIES
from .clips import ClipExample, Clips
from .drawn import SPLITS
from .example import Example, SceneObject
from .questions import CATEGORIES
from .scenes import Scenes
from .tracks import Track

_SUITES: dict[str, Callable[[str, int, int], Sequence[Any]]] = {"scenes": Scenes, "clips": Clips}
NAMES = tuple(_SUITES)


@overload
def load(
    name: Literal["scenes"] = ..., split: str = ..., n: int = ..., seed: int = ...
) -> Sequence[Example]: ...
@overload
def load(
    name: Literal["clips"], split: str = ..., n: int = ..., seed: int = ...
) -> Sequence[ClipExample]: ...
@overload
def load(name: str, split: str = ..., n: int = ..., seed: int = ...) -> Sequence[Any]: ...
def load(name: str = "scenes", split: str = "test", n: int = 400, seed: int = 0) -> Sequence[Any]:
    """Load a suite.

    Parameters
    ----------
    name : str
        ``"scenes"``: coloured shapes and handwritten digits, 192x192. ``"clips"``: eight frames
        of 80x80 in which shapes move, appear, vanish, change colour, and digits flash.
    split : {"train", "validation", "test"}
        The splits share no scene and no handwritten digit.
    n : int
        Number of examples; a larger ``n`` adds examples after the same first ones.
    seed : int
        Seed of the scenes within the split.

    Returns
    -------
    sequence of Example or ClipExample
        Generated on access, reproducible.

    Raises
    ------
    ArgumentError
        If the name or the split is unknown.
    MissingExtraError
        At the first access to an example, if scikit-learn is not installed.
    """
    if name not in _SUITES:
        raise ArgumentError.unknown("suite", name, _SUITES)
    return _SUITES[name](split, n, seed)


__getattr__ = former_names("lftr.suites", {"Clip": ClipExample})

__all__ = [
    "CATEGORIES",
    "CLIP_CATEGORIES",
    "NAMES",
    "SPLITS",
    "ClipExample",
    "Clips",
    "Example",
    "SceneObject",
    "Scenes",
    "Track",
    "load",
]
