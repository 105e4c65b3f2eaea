"""The methods and budgets of a search, and its configuration."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ...evidence.guidance import Guidance
from ...methods import get_method
from ...methods.base import Method
from ...methods.encoder.merges import EncoderMerge
from ...reducing import reduce
from ...values.budget import Budget, Keep, spell
from ...values.errors import ArgumentError, MissingEvidenceError
from ..asking.items import digest
from ..asking.settings import Setting
from ..asking.subject import Subject
from ..evaluation.configuration import plain_settings
from .search import Goal, grid
from .workload import Workload

FORMAT = "tune 1"
METHODS = ("lftr", "coverage", "divprune", "pool")
BUDGETS = tuple(1 / n for n in (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64))


@dataclass(frozen=True)
class Plan:
    """The methods and budgets of a search, and its order.

    Attributes
    ----------
    methods : sequence of Method or str, optional
        Methods to compare, or how the command line spells them; by default those of `METHODS`
        whose evidence the model provides.
    budgets : sequence of float, int or Budget
        Budgets to try: all of them ratios, all counts, or all totals.
    positions : {"original", "compact"}, optional
        As `lftr.reduce` takes it.
    encoder : EncoderMerge, optional
        Merges tokens inside the vision encoder, with every method and budget.
    weights : str or float, optional
        As `lftr.reduce` takes it.
    batch : int
        Questions at a time.
    seed : int
        Seed of the order of the images.

    Raises
    ------
    ArgumentError
        If there are no methods or budgets, budgets of several kinds, or ``batch`` is below 1.
    """

    methods: Sequence[Method | str] | None = None
    budgets: Sequence[Keep] = BUDGETS
    positions: str | None = None
    encoder: EncoderMerge | None = None
    weights: str | float | None = None
    batch: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        if self.methods is not None and not self.methods:
            raise ArgumentError.of("methods", self.methods, "at least one")
        if len({type(keep) for keep in self.budgets}) != 1:
            allowed = "ratios alone, or counts alone, at least one"
            raise ArgumentError.of("keep", list(self.budgets), allowed)
        if self.batch < 1:
            raise ArgumentError.of("batch", self.batch, "a whole number >= 1")
        _ = self.candidates  # refuses names of no method

    @property
    def candidates(self) -> Sequence[Method]:
        """Every method that may be compared: the named ones, or all of `METHODS`."""
        chosen = METHODS if self.methods is None else self.methods
        return [get_method(one) if isinstance(one, str) else one for one in chosen]

    def levels(self, methods: Sequence[Method]) -> list[list[Setting]]:
        """Return for each budget, from the largest to the smallest, the settings of ``methods``."""
        falling = sorted(
            {spell(keep): keep for keep in self.budgets}.values(),
            key=lambda keep: keep.total if isinstance(keep, Budget) else keep,
            reverse=True,
        )
        return grid(methods, falling, self.positions, self.encoder, self.weights)

    def methods_for(self, subject: Subject) -> Sequence[Method]:
        """Return the methods for a model: of the defaults those whose evidence it provides."""
        if self.methods is not None:
            return self.candidates
        usable = []
        for method in self.candidates:
            try:
                reduce(
                    subject.model,
                    method,
                    tokens=1,
                    positions=self.positions,
                    guidance=Guidance(None, subject.processor, subject.text_tower),
                    encoder=self.encoder,
                    weights=self.weights,
                ).remove()
            except MissingEvidenceError:
                continue
            usable.append(method)
        return usable


def tune_configuration(
    subject: Subject, workload: Workload, goal: Goal, plan: Plan
) -> dict[str, Any]:
    """Return everything that a search's answers and decisions depend on, as plain values.

    Raises
    ------
    ArgumentError
        If a method is there twice, or two methods are written alike.
    """
    return {
        "format": FORMAT,
        **subject.plain(),
        "goal": asdict(goal),
        "workload": plain_workload(workload),
        "settings": plain_settings(
            list(itertools.chain.from_iterable(plan.levels(plan.candidates)))
        ),
        "batch": plan.batch,
        "seed": plan.seed,
    }


def plain_workload(workload: Workload) -> dict[str, Any]:
    """Return a workload's name, size and digest, however it is shuffled, as plain values."""
    items = sorted(workload.items, key=lambda item: item.id)
    return {"name": workload.name, "images": len(workload.groups), "digest": digest(items)}
