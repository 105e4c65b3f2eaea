"""Apply any method to the thumbnail and to each tile, with budgets from the thumbnail."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

from ...options.checks import Range
from ...values.selection import Selection
from ...values.source import Source
from ...values.tokens import VisualTokens
from ..base import Evidence, Method
from ..operations.blocks import blockwise
from ..operations.thumbnail import UNKNOWN, VIEWED, view_counts, view_scores, views_of
from .base import Wrapper, decide


@dataclass(frozen=True)
class PerTile(Wrapper):
    """Let ``inner`` decide for the thumbnail and every tile, with GlobalCom2's budgets.

    The thumbnail keeps its share of the budget. A tile keeps the more the more attention the part
    of the thumbnail has that shows the same. ``inner`` sees each of them as an image of its own.

    Tiles are known on LLaVA-NeXT, LLaVA-OneVision and models with their layout: a square thumbnail,
    then one grid of the tiles without the padding. Items of another layout are one view; of those
    with several grids the report says so.

    Parameters
    ----------
    inner : Method or str
        The method that chooses, as an object or a name.
    temperature : float
        Divides the sums of attention before their softmax. The sums add up to at most one, so that
        the published 10 gives all tiles nearly the same share; lower values tell them apart.

    Notes
    -----
    Evidence: that of ``inner``; CLS attention, or features.
    """

    source = Source(
        "GlobalCom2",
        arxiv="2501.05179",
        venue="AAAI 2026",
        code="https://github.com/xuyang-liu16/GlobalCom2",
        function="generate_scale_for_crop_features",
        note="the budgets alone",
    )
    inner: Method | str
    temperature: Annotated[float, Range(1e-3)] = 10.0

    @property
    def evidence(self) -> Evidence:
        return tuple(dict.fromkeys((*super().evidence, VIEWED)))

    def choose(self, tokens: VisualTokens, keep: int) -> Selection:
        method, views = self.methods[0], views_of(tokens)
        if views is None:
            chosen = decide(method, tokens, keep)
            several = len(tokens.blocks) > 1
            return replace(chosen, notes=(*chosen.notes, UNKNOWN)) if several else chosen
        scores, notes = view_scores(tokens, views.view)
        counts = view_counts(scores, views, keep, self.temperature).tolist()
        order = views.view.argsort(stable=True)  # the tokens of a tile one after the other
        tiled = replace(tokens.take(order), tiles=views.grids, _coordinates=None)
        chosen = blockwise(tiled, counts, lambda view, count: decide(method, view, count))
        chosen = chosen.through(order)
        return replace(chosen, notes=tuple(dict.fromkeys((*chosen.notes, *notes))))
