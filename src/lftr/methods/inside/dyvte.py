"""DyVTE: drop all visual tokens at a layer that trained gates choose for each prompt."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from ...values.errors import ArgumentError
from ...values.source import Source
from ..operations.exit_gates import Gates, features_of
from .base import LayerMethod, LayerView
from .schedules import Exit, Schedule


@dataclass(frozen=True)
class DyVTE(LayerMethod, name="dyvte"):
    """Drop all visual tokens before the first layer whose gate predicts that text alone suffices.

    Parameters
    ----------
    gates : Gates or path
        The gates that `lftr.fit_exit` returns, or a file that ``Gates.save`` wrote. They must be
        set before a model is reduced. They stay on their device, and the two rows of states that
        they read are moved there.
    schedule : Exit
        The layer before which the visual tokens are dropped at the latest; by default never.

    Notes
    -----
    A gate reads the mean state of the text after the image without its last token, and the state of
    the last token.
    Differs from the original: both states are normalised, so that gates do not depend on the scale
    of a layer. The width of the gates is small by default (2048 in the original). Each prompt of a
    batch exits on its own.
    """

    source = Source("DyVTE", arxiv="2411.19628", note="dynamic visual-token exit")
    gates: Gates | str | Path | None = None
    schedule: Exit = Exit(1.0)
    scheduled: ClassVar[type[Schedule]] = Exit
    merges: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.gates is not None:
            _ = self._trained  # raises if they are none

    def check(self, config: Any) -> None:
        self._trained.check(config)

    def watches(self, depth: int) -> frozenset[int]:
        return frozenset(range(1, self._trained.made_for.depth))

    def count(self, view: LayerView, planned: int) -> int:
        features = features_of(view.states, view.asking).to(self._trained.device)
        stay, leave = self._trained(view.layer, features)
        return 0 if bool(leave > stay) else planned

    @cached_property
    def _trained(self) -> Gates:
        if isinstance(self.gates, (str, Path)):
            return Gates.load(self.gates)
        if not isinstance(self.gates, Gates):
            raise ArgumentError.of("gates", self.gates, "what lftr.fit_exit returned, or its file")
        return self.gates
