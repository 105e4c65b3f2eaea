"""The answers of a search on disk, so that one that was killed goes on where it was.

A search decides by answers alone, and its order is fixed by its seed. So one that finds the answers
that it has had gives every verdict over again, without the model, until it comes to what has not
been asked: nothing is lost but the batch of that moment, nothing counts twice, and the test is the
one that would have run uninterrupted.
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
class Said:
    """As much of an answer as a search counts.

    Attributes
    ----------
    text : str
        What the model said.
    tokens, kept : int, float
        Visual tokens of the prompt, before and after.
    ended : bool
        Whether the model had come to its end.
    failed : str
        Why there is no answer, where the processor or the model failed; else empty.
    """

    text: str
    tokens: int
    kept: float
    ended: bool
    failed: str = ""

    @classmethod
    def of(cls, answer: Answer) -> Said:
        """Take what is counted."""
        return cls(answer.text, answer.tokens, answer.kept, answer.ended)

    def agrees(self, full: Said) -> float:
        """Return 1 where this is the full model's answer; what failed is no answer."""
        return 0.0 if self.failed else float(self.text == full.text)


class Answers:
    """What has been answered, by questions and setting.

    Parameters
    ----------
    journal : Journal, optional
        Where every answer is written before the next one is asked for; without, they are kept
        in memory alone.
    """

    def __init__(self, journal: Journal | None = None) -> None:
        self._journal = journal
        lines = [] if journal is None else journal.lines
        self._known = {
            (line["setting"], tuple(line["ids"])): [Said(**one) for one in line["answers"]]
            for line in lines
        }

    @classmethod
    def open(cls, path: str | Path, config: Mapping[str, Any]) -> Answers:
        """Begin a folder, or go on with one that was begun by the same search; see `Journal.open`.

        Raises
        ------
        ArgumentError
            If the folder is another's, cannot be written, or somebody else is writing to it.
        """
        return cls(Journal.open(path, ANSWERS, config))

    def to(
        self, ids: Sequence[str], setting: Setting, ask: Callable[[Setting], list[Said]]
    ) -> list[Said]:
        """Return the answers to the questions of those ids, asked for if they are not known."""
        key = setting.label, tuple(ids)
        if key not in self._known:
            found = ask(setting)
            if self._journal is not None:
                line = {"setting": setting.label, "ids": list(ids)}
                self._journal.add([line | {"answers": [asdict(one) for one in found]}])
            self._known[key] = found
        return self._known[key]

    def __len__(self) -> int:
        return sum(map(len, self._known.values()))

    def close(self) -> None:
        """Let others write to the folder."""
        if self._journal is not None:
            self._journal.close()


def answered(path: str | Path, config: Mapping[str, Any]) -> int:
    """Return how many answers the search of a configuration finds in a folder."""
    with closing(Answers.open(path, config)) as answers:
        return len(answers)
