"""Procedural visual question answering: images, questions and answers from a seed alone.

``lftr.suites.load("scenes")`` gives what `lftr.bundled` was trained to answer. Nothing is
downloaded; the handwritten digits come with scikit-learn (the extra ``suites``).
"""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import ArgumentError
from .example import Example, SceneObject
from .questions import CATEGORIES
from .scenes import SPLITS, Scenes

_SUITES = {"scenes": Scenes}
NAMES = tuple(_SUITES)


def load(
    name: str = "scenes", split: str = "test", n: int = 400, seed: int = 0
) -> Sequence[Example]:
    """Load a suite.

    Parameters
    ----------
    name : str
        ``"scenes"``: coloured shapes and handwritten digits, 192x192.
    split : {"train", "validation", "test"}
        The splits share no scene and no handwritten digit.
    n : int
        How many examples; the first ``n`` stay the same when ``n`` grows.
    seed : int
        Another seed, other scenes of the same split.

    Returns
    -------
    sequence of Example
        Drawn when looked at, the same every time.

    Raises
    ------
    ArgumentError
        If the name or the split is unknown.
    MissingExtraError
        On the first look, if scikit-learn is not installed.
    """
    if name not in _SUITES:
        raise ArgumentError.unknown("suite", name, _SUITES)
    return _SUITES[name](split, n, seed)


__all__ = ["CATEGORIES", "NAMES", "SPLITS", "Example", "SceneObject", "Scenes", "load"]
