"""What a kind of host must have, so that a reduction can attach it to a model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, Protocol

from ....values.report import Report
from ...items import ReductionPlan
from ..api import CallArguments, Model
from ..families import Family
from ..hooks import ModelHooks
from ..reduced_call import ReducedCall


class Host(Protocol):
    """Reduces the calls of one model.

    Attributes
    ----------
    model_hooks : type of ModelHooks
        The hooks on ``forward`` and ``generate`` that models of this kind need.
    plan : ReductionPlan
        How to reduce.
    """

    model_hooks: ClassVar[type[ModelHooks]]
    plan: ReductionPlan

    def __init__(self, model: Model, family: Family, plan: ReductionPlan) -> None: ...

    def concerns(self, call: CallArguments) -> bool:
        """Whether a call of ``forward`` or ``generate`` has to be reduced."""

    def reduce(self, call: CallArguments, report: Report) -> ReducedCall:
        """Return a call with the visual tokens reduced; fills ``report``, now or by its hooks."""

    def hooks(self) -> Iterable[Any]:
        """Attach further hooks inside the model; returns their handles."""

    def end(self) -> None:
        """Discard the data of the call that this thread is in."""
