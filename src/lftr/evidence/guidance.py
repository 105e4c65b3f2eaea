"""What guides methods that compare tokens with a text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..values.errors import ArgumentError
from .text import TextTower


@dataclass(frozen=True)
class Guidance:
    """The text that guides a method, and what turns it into embeddings.

    Without ``text``, the words of the prompt guide.

    Parameters
    ----------
    text : str or sequence of str, optional
        One question, or one for each row of the batch.
    processor : optional
        The model's processor or tokenizer. It splits ``text`` into the model's tokens where there
        is no text tower, and decodes the prompt where there is a tower and no ``text``.
    text_tower : TextTower, optional
        CLIP's text side, for methods that compare in CLIP's space.

    Raises
    ------
    ArgumentError
        If one of them is of another kind.
    """

    text: str | Sequence[str] | None = None
    processor: Any = None
    text_tower: TextTower | None = None

    def __post_init__(self) -> None:
        rows = self.text if isinstance(self.text, (list, tuple)) else [self.text]
        if self.text is not None and not (rows and all(isinstance(row, str) for row in rows)):
            raise ArgumentError.of("text", self.text, "a string, or a list of one for each row")
        reads = callable(self.tokenizer) or hasattr(self.tokenizer, "decode")
        if self.processor is not None and not reads:
            allowed = "a processor or tokenizer of transformers"
            raise ArgumentError.of("processor", self.processor, allowed)
        if self.text_tower is not None and not isinstance(self.text_tower, TextTower):
            raise ArgumentError.of("text_tower", self.text_tower, "a lftr.TextTower")

    @property
    def tokenizer(self) -> Any:
        """The processor's tokenizer, or the processor itself."""
        return getattr(self.processor, "tokenizer", self.processor)


def as_guidance(guidance: object, **fields: Any) -> Guidance:
    """Return the `Guidance` that `lftr.reduce` was given: as one, as a text, or field by field.

    Raises
    ------
    ArgumentError
        If it is none, or a field was given beside it.
    """
    if not isinstance(guidance, Guidance | str | list | tuple | None):
        raise ArgumentError.of("guidance", guidance, "a lftr.Guidance, or its text")
    beside = {name: value for name, value in fields.items() if value is not None}
    for name, value in beside.items():
        if isinstance(guidance, Guidance) or (guidance is not None and name == "text"):
            raise ArgumentError.of(name, value, f"one of guidance and {name}; guidance has it")
    return guidance if isinstance(guidance, Guidance) else Guidance(**{"text": guidance} | beside)
