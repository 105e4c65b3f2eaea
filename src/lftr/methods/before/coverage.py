"""Our own: keep what the question asks for, and tokens that stand for the others."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Literal

from torch import Tensor

from ...options.checks import Needs, Range
from ...values.selection import Selection
from ...values.source import Source
from ...values.tokens import VisualTokens
from ..base import Evidence, Method
from ..compose.mix import Mix
from ..operations.cells import candidates, evenly_spaced
from ..operations.coverage import facility_location
from ..operations.directions import Directions
from ..operations.flows import clusters, mean_flow
from ..operations.scaling import min_max, unit
from ..operations.signals import ENCODER, encoder_features
from .lftr import Lftr

# Relevance to the question picks the first token; diversity, and relevance with a tenth of the
# weight, pick the others. Nothing merges: the tokens of `Mix` are drawn from both parts.
GUIDED = Lftr(relevance="text", diversity=0.9, space="model", candidates=1.0, leftovers="drop")
_WITHOUT_TEXT = "no CLIP text tower: tokens were chosen by coverage alone, without the text"


@dataclass(frozen=True)
class Coverage(Method, name="coverage"):
    """Keep what the question asks for, then tokens that together stand for all others.

    A share of the budget goes to tokens that answer the text and are unlike one another (`Lftr`
    with ``relevance="text"`` and a diversity of 0.9). The rest covers what is left: greedy
    maximisation of ``sum_u w_u max_picked exp(-(1 - cos(u, picked)) / width)``, a facility location
    over evenly spread candidates; ``w = stand-out ** sharpness`` lets tokens that stand out from
    the mean of the image count more. Found on the validation split of the bundled suite, see
    ``benchmarks/coverage_search.py``. Memory: see `facility_location`.

    Evidence: the encoder's features, or the features; CLIP's projected tokens and text, without
    which coverage has the whole budget. The prompt's own embeddings do not stand in: guided by
    them, the rule is no better on average than unguided.

    Parameters
    ----------
    asked : float
        Share of the budget, in [0, 1], for tokens chosen by the text; 0 needs no text.
    width : float
        Decay of coverage: a kept token covers another by ``exp(-(1 - cos) / width)``.
    sharpness : float
        How strongly tokens that differ from the mean of the image are weighted; 0 weights all the
        same.
    candidates : float
        Number of evenly spread candidates, in geometric means of N and K; ``inf`` is all tokens.
    leftovers : {"merge", "drop"}
        Whether dropped tokens are merged into the nearest token kept for coverage, which becomes
        the mean, or are removed.
    rounds : int
        Rounds of k-means by which the groups of leftovers are improved.
    """

    source = Source("this project", note="found by `benchmarks/coverage_search.py`")
    asked: Annotated[float, Range(0.0, 1.0), Needs("text_embeds")] = 0.5
    width: Annotated[float, Range(1e-3)] = 0.3
    sharpness: Annotated[float, Range(0.0)] = 0.0
    candidates: Annotated[float, Range(0.0)] = 1.0
    leftovers: Literal["merge", "drop"] = "drop"
    rounds: Annotated[int, Range(0, 100)] = 0

    @property
    def evidence(self) -> Evidence:
        text = (("text_embeds", "features"), ("visual_projected", "features"))
        return (ENCODER, *text) if self.asked else (ENCODER,)

    def choose(self, tokens: VisualTokens, keep: int) -> Selection:
        if self.asked == 0:
            return self._cover(tokens, keep)
        if tokens.text_embeds is None or tokens.visual_projected is None:
            chosen = self._cover(tokens, keep)
            return replace(chosen, notes=(*chosen.notes, _WITHOUT_TEXT))
        return Mix(GUIDED, replace(self, asked=0.0), self.asked).choose(tokens, keep)

    def _cover(self, tokens: VisualTokens, keep: int) -> Selection:
        x, notes = encoder_features(tokens)
        index = evenly_spaced(tokens, candidates(tokens.count, keep, self.candidates))
        weight = self._importance(x)
        picks = facility_location(x, keep, among=index, width=self.width, importance=weight)
        kept = picks.sort(dim=1).values
        if self.leftovers == "drop":
            return Selection(kept, notes=notes)
        slot, _ = clusters(Directions.of(x), kept, self.rounds)
        return Selection(kept, mean_flow(slot, keep), notes)

    def _importance(self, x: Tensor) -> Tensor | None:
        """Return how much each token counts ``(B, N)``; None where all count alike."""
        if self.sharpness == 0:
            return None
        x = unit(x)
        centre = unit(x.mean(dim=1, keepdim=True))
        stand_out = min_max(1.0 - (x * centre).sum(dim=-1)).clamp_min(1e-3)
        return stand_out**self.sharpness
