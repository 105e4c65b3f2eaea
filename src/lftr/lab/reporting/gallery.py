"""Which answers a report shows beside their images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from ..evaluation.runs import Prediction, Run

AGREEMENTS, DISAGREEMENTS = 3, 6  # most of each that a setting shows


@dataclass(frozen=True)
class Card:
    """One question, answered by the full model and by a reduced one.

    Attributes
    ----------
    agrees : bool
        Whether both answers are equal.
    full, reduced : Prediction
        Both answers.
    """

    setting: str
    agrees: bool
    full: Prediction
    reduced: Prediction

    @property
    def cells(self) -> str:
        """The kept tokens as an SVG path of unit squares; empty if there are none."""
        grid, index = self.reduced["grid"], self.reduced["index"]
        if grid is None or index is None:
            return ""
        places = (divmod(token, grid[2]) for token in index)
        return "".join(f"M{column} {row}h1v1h-1z" for row, column in places)

    @property
    def shape(self) -> tuple[int, int]:
        """Columns and rows of the tokens; frames are below each other."""
        frames, rows, columns = self.reduced["grid"] or (1, 1, 1)
        return columns, frames * rows


def cards_of(run: Run) -> list[Card]:
    """Return the cards of each setting: its worst disagreements, then some agreements.

    The worst disagreements lose most of the score, and other settings lose it least often. The
    agreements are those where other settings differ most often.
    """
    by_setting: dict[str, dict[str, Prediction]] = {}
    for line in run.predictions:
        by_setting.setdefault(line["setting"], {})[line["id"]] = line
    whole = by_setting.pop(run.config["settings"][0]["label"])
    full = {id: line for id, line in whole.items() if run.image(id).is_file()}
    missed: Counter[str] = Counter(
        id
        for lines in by_setting.values()
        for id, line in lines.items()
        if id in full and not _same(line, full[id])
    )
    return [
        card
        for setting, lines in by_setting.items()
        for card in _cards(setting, lines, full, missed)
    ]


def _cards(
    setting: str,
    lines: Mapping[str, Prediction],
    full: Mapping[str, Prediction],
    missed: Mapping[str, int],
) -> list[Card]:
    cards = [
        Card(setting, _same(lines[id], whole), whole, lines[id])
        for id, whole in full.items()
        if id in lines
    ]
    worst = sorted(
        (card for card in cards if not card.agrees),
        key=lambda card: (card.reduced["score"] - card.full["score"], missed[card.full["id"]]),
    )
    agreeing = sorted(
        (card for card in cards if card.agrees), key=lambda card: -missed[card.full["id"]]
    )
    return worst[:DISAGREEMENTS] + agreeing[:AGREEMENTS]


def _same(one: Prediction, other: Prediction) -> bool:
    return one["answer"] == other["answer"]  # as the agreement of the tables counts
