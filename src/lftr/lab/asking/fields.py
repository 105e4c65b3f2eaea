"""Which fields of a question's line are read; one that only looks like them is a mistake."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from ..scoring.metrics import levenshtein

STILLS, CLIPS, ANSWERS = ("image", "images"), ("video", "videos"), ("answers", "answer")
_FIELDS = (STILLS, CLIPS, ("question",), ANSWERS, ("id",), ("category",), ("choices",))


def check_fields(line: Mapping[str, Any], answered: bool = True) -> None:
    """Refuse a field that was meant to be another, or is given in both of its spellings.

    Fields of the user's own are welcome; of those, one is taken for a slip of the pen that is
    nearly the name of a field which the line does not have.

    Parameters
    ----------
    answered : bool
        Whether answers are read.

    Raises
    ------
    ValueError
        Naming the field.
    """
    read = [names for names in _FIELDS if answered or names is not ANSWERS]
    for names in read:
        given = [name for name in names if name in line]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(map(repr, given))}; allowed: one of them")
    known = {name for names in _FIELDS for name in names}
    absent = [name for names in read if not any(name in line for name in names) for name in names]
    for own in (name for name in line if name not in known):
        meant = min(absent, key=lambda name: _slips(own, name), default=None)
        if meant is not None and _slips(own, meant) <= (len(meant) - 1) // 3:  # "idx" is no "id"
            raise ValueError(f"unknown field {own!r}; did you mean {meant!r}?")


@lru_cache(maxsize=4096)  # a file has the same fields on every line
def _slips(given: str, name: str) -> int:
    """Count letters that are wrong, missing or too many; all that are in another order are one.

    Capitals and outer space do not count.
    """
    said = given.strip().lower()
    slips = levenshtein(said, name)
    return min(slips, 1) if sorted(said) == sorted(name) else slips
