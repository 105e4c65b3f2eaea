"""Keep the tokens that a scorer ranks highest, fitted or not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from ...values.selection import Selection
from ...values.source import Source
from ...values.tokens import VisualTokens
from ..base import Evidence
from ..operations.directions import Directions
from ..operations.fitted import Fittable, Fitted
from ..operations.flows import clusters, mean_flow
from ..operations.learned_scores import VisualScores, seen_signals
from ..operations.signals import ENCODER, SALIENCY, encoder_features


@dataclass(frozen=True)
class Scorer(Fittable, name="scorer"):
    """Keep the tokens with the highest score, from weights that `lftr.fit` trains.

    The scorer reads the attention of the encoder, how far a token is from the mean of its item, and
    the encoder's features. It sees no text, so that a choice suits every question about an image.

    Parameters
    ----------
    leftovers : {"merge", "drop"}
        Whether tokens that are not kept flow into the nearest kept one, or go.

    Notes
    -----
    Without a fitted part, the score is the sum of the z-scored signals, with which fitting begins.
    Evidence: CLS attention, or the attention received; encoder features.
    """

    source = Source("this project", note="a plain part for `lftr.fit`")
    fits: ClassVar[type[Fitted]] = VisualScores
    leftovers: Literal["merge", "drop"] = "merge"

    @property
    def rule_evidence(self) -> Evidence:
        return (SALIENCY, ENCODER)

    def choose(self, tokens: VisualTokens, keep: int) -> Selection:
        chosen = super().choose(tokens, keep)
        if self.leftovers == "drop":
            return chosen
        seen = Directions.of(encoder_features(tokens)[0])
        slot, _ = clusters(seen, chosen.index)
        return Selection(chosen.index, mean_flow(slot, keep), chosen.notes)

    def choose_by_rule(self, tokens: VisualTokens, keep: int) -> Selection:
        signals, notes = seen_signals(tokens)
        return Selection.top(signals.sum(dim=2), keep, notes)
