"""FocusLLaVA: pool regions more coarsely where little is to be seen, by a rule or learned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from ...options.checks import Range
from ...values.selection import Selection
from ...values.source import Source
from ...values.tokens import VisualTokens
from ..operations.fitted import Fittable, Fitted
from ..operations.flows import groups_of, mean_flow
from ..operations.learned_regions import RegionSamplers
from ..operations.region_levels import divide, explained, leaders, regions_of
from ..operations.scaling import unit
from .pool import Pool


@dataclass(frozen=True)
class RegionRouter(Fittable, name="region-router"):
    """Pool each region of the grid 4 x 4, 2 x 2 or not at all, by how much its tokens vary.

    Every region starts as one cell. Dividing it into the cells of the next level costs slots and
    explains part of the variance of its tokens. Regions are divided in the order of variance
    explained per slot until ``keep`` slots are used, the last one only in part, so that every ``K``
    is possible. With fewer slots than regions, regions are made twice as large on each side; with
    fewer slots than frames this is `Pool`. A slot is the mean of its cell, its anchor the token in
    the middle. Tokens without a grid are treated as one row.

    Parameters
    ----------
    region : int
        Rows and columns of a region; 4 as published.

    Notes
    -----
    With ``fitted``, the level of each region and the selection by the prompt are learned
    (`RegionSamplers`), and the option above has no effect.
    Differs from the original: without ``fitted``, variance replaces its trained gate, which chooses
    the level of each region, and there is no selection by the prompt; with it, the prompt selects
    before the language model, not in one of its layers.
    """

    fits: ClassVar[type[Fitted]] = RegionSamplers
    source = Source(
        "FocusLLaVA", arxiv="2411.14228", note="a training-free version of the trained original"
    )
    region: Annotated[int, Range(1)] = 4

    def choose_by_rule(self, tokens: VisualTokens, keep: int) -> Selection:
        groups = regions_of(tokens.blocks, keep, self.region, tokens.features.device)
        if not groups:
            return Pool().choose(tokens, keep)
        counts = divide(explained(unit(tokens.features), groups), groups, keep)
        index, slot = groups_of(leaders(groups, counts))
        return Selection(index, mean_flow(slot, keep))
