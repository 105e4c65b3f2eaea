"""The answers of a search on disk, so that an interrupted search can continue.

A search depends on answers alone, and its seed fixes its order. A search that is repeated with the
earlier answers therefore makes the same decisions without the model, up to the first question that
has no answer yet. Only the batch in progress is lost, no answer counts twice, and the statistical
test is the same as without the interruption.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..asking.answering import Answer
from ..asking.journal import Journal
from ..asking.settings import Setting

ANSWERS = "answers.jsonl"


@dataclass(frozen=True)
class SearchAnswer:
    """The part of an answer that a search needs.

    Attributes
    ----------
    text : str
        The generated text.
    tokens, kept : int, float
        Visual tokens of the prompt, before and after.
    ended : bool
        Whether the model generated an end token.
    failed : str
        The reason if the processor or the model failed, else empty.
    """

    text: str
    tokens: int
    kept: float
    ended: bool
    failed: str = ""

    @classmethod
    def of(cls, answer: Answer) -> SearchAnswer:
        """Convert an answer."""
        return cls(answer.text, answer.tokens, answer.kept, answer.ended)

    def agrees(self, full: SearchAnswer) -> float:
        """Return 1.0 if this equals the full model's answer; a failure never does."""
        return 0.0 if self.failed else float(self.text == full.text)


class Answers:
    """The answers so far, by question and setting.

    Parameters
    ----------
    journal : Journal, optional
        Every answer is written to it before the next question; without it answers are in memory
        only.
    """

    def __init__(self, journal: Journal | None = None) -> None:
        self._journal = journal
        lines = [] if journal is None else journal.lines
        self._known = {
            (line["setting"], tuple(line["ids"])): [SearchAnswer(**one) for one in line["answers"]]
            for line in lines
        }

    @classmethod
    def open(cls, path: str | Path, config: Mapping[str, Any]) -> Answers:
        """Start a folder, or continue one of the same search; see `Journal.open`.

        Raises
        ------
        ArgumentError
            If the folder belongs to another search, cannot be written, or is in use.
        """
        return cls(Journal.open(path, ANSWERS, config))

    def to(
        self, ids: Sequence[str], setting: Setting, ask: Callable[[Setting], list[SearchAnswer]]
    ) -> list[SearchAnswer]:
        """Return the answers to questions by id; ask those that have none."""
        key = setting.label, tuple(ids)
        if key not in self._known:
            answers = ask(setting)
            if self._journal is not None:
                line = {"setting": setting.label, "ids": list(ids)}
                self._journal.add([line | {"answers": [asdict(one) for one in answers]}])
            self._known[key] = answers
        return self._known[key]

    def __len__(self) -> int:
        return sum(map(len, self._known.values()))

    def close(self) -> None:
        """Release the lock of the folder."""
        if self._journal is not None:
            self._journal.close()


def count_answers(path: str | Path, config: Mapping[str, Any]) -> int:
    """Return the number of answers that a folder holds for a configuration."""
    with closing(Answers.open(path, config)) as answers:
        return len(answers)
