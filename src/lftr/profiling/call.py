"""One prompt, asked under one setting after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..evaluation.answering import Asked, inputs_for
from ..evaluation.settings import Setting
from ..evidence.text import TextTower
from ..hosts.transformers.session import Reduction


@dataclass(frozen=True)
class Call:
    """A model's inputs, ready on its device, with what text-guided methods are given.

    Attributes
    ----------
    inputs : mapping
        What ``model(**inputs)`` takes.
    texts : tuple of str
        The question of each row.
    label : str
        What tables call it.
    """

    model: Any
    processor: Any
    inputs: Any
    texts: tuple[str, ...]
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
        return cls(model, processor, inputs, tuple(a.question for a in asked), text_tower, label)

    def under(self, setting: Setting) -> Reduction:
        """Lay the reduction of a setting on the model."""
        return setting.reduce(
            self.model,
            text=list(self.texts),
            processor=self.processor,
            text_tower=self.text_tower,
        )
