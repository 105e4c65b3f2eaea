"""How slots that stand for several tokens count in attention, as an exponent."""

from __future__ import annotations

import math

from .errors import ArgumentError

WORDS = {"size": 1.0, "none": 0.0}


def parse_weights(weights: object) -> float | None:
    """Return the exponent of the slots' weights; None for the default.

    Raises
    ------
    ArgumentError
        If it is neither a word of `reduce` nor a finite number from 0 on.
    """
    if weights is None:
        return None
    word = str(weights)
    try:
        exponent = WORDS[word] if word in WORDS else float(word)
    except ValueError:
        exponent = math.nan
    if isinstance(weights, bool) or not 0.0 <= exponent < math.inf:
        raise ArgumentError.of("weights", weights, "'size', 'none' or a number from 0 on")
    return exponent
