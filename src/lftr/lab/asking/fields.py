"""The fields of a line of a JSONL file, and a check for misspelt names."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from ..scoring.metrics import levenshtein

STILLS, CLIPS, ANSWERS = ("image", "images"), ("video", "videos"), ("answers", "answer")
_FIELDS = (STILLS, CLIPS, ("question",), ANSWERS, ("id",), ("category",), ("choices",))


def check_fields(line: Mapping[str, Any], answered: bool = True) -> None:
    """Refuse a misspelt field, and a field in both of its spellings.

    Additional fields are allowed. One counts as misspelt if its name is close to that of a field
    that the line lacks.

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
        spellings = [name for name in names if name in line]
        if len(spellings) > 1:
            raise ValueError(f"{' and '.join(map(repr, spellings))}; allowed: one of them")
    known = {name for names in _FIELDS for name in names}
    absent = [name for names in read if not any(name in line for name in names) for name in names]
    for unknown in (name for name in line if name not in known):
        meant = min(absent, key=lambda name: _slips(unknown, name), default=None)
        if (
            meant is not None and _slips(unknown, meant) <= (len(meant) - 1) // 3
        ):  # "idx" is no "id"
            raise ValueError(f"unknown field {unknown!r}; did you mean {meant!r}?")


@lru_cache(maxsize=4096)  # a file has the same fields on every line
def _slips(field: str, name: str) -> int:
    """Return the edit distance of two names; a permutation of the same letters counts as 1.

    Case and surrounding space are ignored.
    """
    field = field.strip().lower()
    slips = levenshtein(field, name)
    return min(slips, 1) if sorted(field) == sorted(name) else slips
