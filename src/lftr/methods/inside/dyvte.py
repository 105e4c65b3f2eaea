"""Drop the image once the text no longer needs it, as trained gates say."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import ArgumentError
from ...exits.features import features_of
from ...exits.gates import Gates
from .base import LayerMethod, LayerView
from .schedules import Exit


@dataclass(frozen=True)
class DyVTE(LayerMethod, name="dyvte"):
    """Drop all visual tokens before the first layer whose gate says that text alone will do.

    Parameters
    ----------
    gates : Gates or path
        What `lftr.fit_exit` returned, or a file that ``Gates.save`` wrote. Needed before a model is
        reduced.
    schedule : Exit
        The layer before which the image is dropped at the latest; by default never.

    Notes
    -----
    Source: DyVTE (arXiv 2411.19628), dynamic visual-token exit. A gate sees the mean of the text's
    states after the image without the last, and the last.
    Differs: both are brought to one length, so that a gate sees no layer's scale; the width of the
    gates is small by default (the original: 2048); every prompt of a batch exits on its own.
    """

    gates: Gates | str | Path | None = None
    schedule: Exit = Exit(1.0)
    _gates: Gates | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        Exit.require("schedule", self.schedule)
        loaded = Gates.load(self.gates) if isinstance(self.gates, (str, Path)) else self.gates
        if not isinstance(loaded, (Gates, type(None))):
            raise ArgumentError.of("gates", loaded, "what lftr.fit_exit returned, or its file")
        object.__setattr__(self, "_gates", loaded)

    def check(self, config: Any) -> None:
        self._trained.check(config)

    def watches(self, depth: int) -> frozenset[int]:
        return frozenset(range(1, self._trained.made_for.depth))

    def count(self, view: LayerView, planned: int) -> int:
        gates = self._trained.to(view.states.device)
        stay, leave = gates(view.layer, features_of(view.states, view.asking))
        return 0 if bool(leave > stay) else planned

    @property
    def _trained(self) -> Gates:
        if self._gates is None:
            raise ArgumentError.of("gates", None, "what lftr.fit_exit returned, or its file")
        return self._gates
