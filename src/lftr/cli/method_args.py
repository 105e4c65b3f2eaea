"""What the options of one setting say, as the arguments of `lftr.reduce`."""

from __future__ import annotations

from collections.abc import Sequence

from ..methods.base import Method
from ..methods.encoder.spelling import parse_merge
from ..presets import Preset
from ..reducing import check_budget
from .parsing import parse_methods


def choose(
    method: Sequence[str] | None,
    keep: str | None,
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
    if keep is None and any(isinstance(one, Method) for one in chosen):
        keep = "1/16"  # inside the model, schedules say how many
    check_budget(chosen, keep)
    merge = None if encoder is None else parse_merge(encoder)
    return Preset(chosen[0] if len(chosen) == 1 else chosen, keep, positions, encoder=merge)
