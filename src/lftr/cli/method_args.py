"""What the options of one setting say, as the arguments of `lftr.reduce`."""

from __future__ import annotations

from collections.abc import Sequence

from ..methods.base import Method
from ..methods.encoder.spelling import parse_merge
from ..presets import Preset
from ..reducing import check_budget
from ..values.budget import as_arguments
from .parsing import parse_budget, parse_methods


def choose(
    method: Sequence[str] | None,
    keep: str | None,
    tokens: int | None,
    option: Sequence[str] | None,
    positions: str | None = None,
    encoder: str | None = None,
) -> Preset:
    """Return what was chosen by hand; without a word LFTR, at a sixteenth.

    Raises
    ------
    ArgumentError
        If a word is none that `lftr.reduce` takes on any model.
    """
    chosen = parse_methods(method or ["lftr"], option or [])
    budget = parse_budget(keep, tokens)
    if budget is None and any(isinstance(one, Method) for one in chosen):
        budget = 1 / 16  # inside the model, schedules say how many
    check_budget(chosen, budget)
    merge = None if encoder is None else parse_merge(encoder)
    return Preset(
        chosen[0] if len(chosen) == 1 else chosen,
        positions=positions,
        encoder=merge,
        **as_arguments(budget),
    )
