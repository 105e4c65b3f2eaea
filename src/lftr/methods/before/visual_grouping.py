"""VisToG: group visual tokens around seeds, which are tokens or learned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from ...options.checks import Range
from ...values.selection import Selection
from ...values.source import Source
from ...values.tokens import VisualTokens
from ..base import Evidence
from ..operations.density import density_peaks
from ..operations.fitted import Fittable, Fitted
from ..operations.flows import mean_flow, nearest, nearest_to, with_anchors
from ..operations.greedy import farthest_point
from ..operations.learned_slots import SemanticSlots
from ..operations.scaling import unit
from ..operations.signals import ENCODER, SALIENCY, encoder_features, saliency


@dataclass(frozen=True)
class VisualGrouping(Fittable, name="visual-grouping"):
    """Group the tokens around ``K`` seeds by encoder features; a slot is the mean of a group.

    Every token joins the seed that is nearest by cosine. A seed stays in its own group, so no group
    is empty, and is the anchor of the slot.

    Parameters
    ----------
    seeds : {"farthest", "saliency", "density"}
        How seeds are chosen: tokens that are far apart, the most attended tokens, or centres of
        dense regions (DPC-kNN).
    rounds : int
        Further rounds of k-means around the means of the groups, at most 100.

    Notes
    -----
    With ``fitted``, seeds are learned queries (`SemanticSlots`) and the options above have no
    effect.
    The original trains K = 64 semantic tokens and a grouping layer in the encoder.
    Evidence: encoder features; for seeds by saliency CLS attention, or the attention received.
    Differs from the original: without ``fitted``, seeds are tokens of the item; with it, queries
    look at the encoder's output and do not run through its layers. Features are not changed.
    """

    fits: ClassVar[type[Fitted]] = SemanticSlots
    source = Source(
        "VisToG", arxiv="2411.17773", note="a training-free version of the trained original"
    )
    seeds: Literal["farthest", "saliency", "density"] = "farthest"
    rounds: Annotated[int, Range(0, 100)] = 0

    @property
    def rule_evidence(self) -> Evidence:
        return (ENCODER, SALIENCY) if self.seeds == "saliency" else (ENCODER,)

    def choose_by_rule(self, tokens: VisualTokens, keep: int) -> Selection:
        x, notes = encoder_features(tokens)
        if self.seeds == "saliency":
            attention, more = saliency(tokens)
            index, notes = Selection.top(attention, keep).index, notes + more
        else:
            pick = farthest_point if self.seeds == "farthest" else density_peaks
            index = pick(x, keep).sort(dim=1).values
        slot, _ = nearest(x, index)
        x = unit(x)
        for _ in range(self.rounds):
            centre = mean_flow(slot, keep).combine(x, keep)
            slot = with_anchors(nearest_to(x, unit(centre))[0], index)
        return Selection(index, mean_flow(slot, keep), notes)
