"""Where kept tokens stand in the language model."""

from __future__ import annotations

from .errors import ArgumentError

POSITIONS = ("original", "compact")
"""Where they were in the full prompt, or renumbered without gaps."""


def check_positions(positions: object) -> None:
    """Refuse what is neither one of `POSITIONS` nor None, the model's own default.

    Raises
    ------
    ArgumentError
        If it is something else.
    """
    if positions is not None and positions not in POSITIONS:
        raise ArgumentError.of("positions", positions, " or ".join(map(repr, POSITIONS)))
