"""One prompt, asked under one setting after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...evidence.text import TextTower
from ...hosts.transformers.reduction import Reduction
from ..asking.answering import inputs_for
from ..asking.items import Asked
from ..asking.settings import Setting


@dataclass(frozen=True)
class Call:
    """A model's inputs, ready on its device, with what text-guided methods are given.

    Attributes
    ----------
    inputs : mapping
        What ``model(**inputs)`` takes.
    asked : tuple of Asked
        The question of each row, with its images.
    label : str
        What tables call it.
    """

    model: Any
    processor: Any
    inputs: Any
    asked: tuple[Asked, ...]
    text_tower: TextTower | None = None
    label: str = ""

    @classmethod
    def of(
        cls,
        model: Any,
        processor: Any,
        asked: Sequence[Asked],
        text_tower: TextTower | None = None,
        label: str = "",
    ) -> Call:
        """Make a batch of questions, each about images of its own."""
        inputs = inputs_for(model, processor, asked)
        return cls(model, processor, inputs, tuple(asked), text_tower, label)

    def under(self, setting: Setting) -> Reduction:
        """Lay the reduction of a setting on the model."""
        return setting.reduce(
            self.model,
            self.asked,
            processor=self.processor,
            text_tower=self.text_tower,
        )
