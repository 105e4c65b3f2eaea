"""A batch of prompts that is run under several settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...evidence.text import TextTower
from ...hosts.transformers.reduction import Reduction
from ..asking.answering import inputs_for
from ..asking.items import QuestionLike
from ..asking.settings import Setting


@dataclass(frozen=True)
class Call:
    """A model's inputs on its device, and the questions for text-guided methods.

    Attributes
    ----------
    inputs : mapping
        Arguments of ``model(**inputs)``.
    asked : tuple of QuestionLike
        The question of each row, with its images.
    label : str
        Name in tables.
    """

    model: Any
    processor: Any
    inputs: Any
    asked: tuple[QuestionLike, ...]
    text_tower: TextTower | None = None
    label: str = ""

    @classmethod
    def of(
        cls,
        model: Any,
        processor: Any,
        asked: Sequence[QuestionLike],
        text_tower: TextTower | None = None,
        label: str = "",
    ) -> Call:
        """Make a call of several questions, each about its own images."""
        inputs = inputs_for(model, processor, asked)
        return cls(model, processor, inputs, tuple(asked), text_tower, label)

    def under(self, setting: Setting) -> Reduction:
        """Reduce the model by a setting."""
        return setting.reduce(
            self.model,
            self.asked,
            processor=self.processor,
            text_tower=self.text_tower,
        )
