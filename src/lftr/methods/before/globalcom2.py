"""GlobalCom2: the thumbnail says how many tokens each tile keeps, and helps to choose them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from ...options.checks import Range
from ...values.selection import Selection
from ...values.source import Source
from ...values.tokens import VisualTokens
from ..base import Evidence, Method
from ..operations.thumbnail import UNKNOWN, VIEWED, Views, view_counts, view_scores, views_of
from ..operations.turns import turns


@dataclass(frozen=True)
class GlobalCom2(Method, name="globalcom2"):
    """Divide the budget among tiles by the attention of the thumbnail, and keep the most attended.

    The thumbnail keeps its share of the budget, by its attention. A tile keeps the more the more
    attention the part of the thumbnail has that shows the same. Its tokens are chosen by the sum of
    their own attention and that of the thumbnail, resized to the tiles bilinearly, each at length
    one within the tile. An item without a thumbnail and tiles keeps its most attended tokens.

    Parameters
    ----------
    temperature : float
        Divides the sums of attention before their softmax; 10 as published, where tiles get nearly
        the same share, since the sums add up to at most one.

    Notes
    -----
    Evidence: CLS attention; for encoders without one, minus the cosine with the mean of the
    tokens of the view.
    Differs from the original: the total is exact (there every view rounds down). The tiles are
    those that the layout shows (`lftr.methods.PerTile`).
    """

    source = Source(
        "GlobalCom2",
        arxiv="2501.05179",
        venue="AAAI 2026",
        code="https://github.com/xuyang-liu16/GlobalCom2",
        function="LlavaMetaForCausalLM.compress_crops",
    )
    temperature: Annotated[float, Range(1e-3)] = 10.0

    @property
    def evidence(self) -> Evidence:
        return (VIEWED,)

    def choose(self, tokens: VisualTokens, keep: int) -> Selection:
        views = views_of(tokens)
        if views is None:
            scores, notes = view_scores(tokens, torch.zeros_like(tokens.coordinates[:, 0]))
            notes += (UNKNOWN,) if len(tokens.blocks) > 1 else ()
            return Selection.top(scores, keep, notes)
        scores, notes = view_scores(tokens, views.view)
        counts = view_counts(scores, views, keep, self.temperature).to(scores.device)
        both = _both(scores, views, tokens.blocks[1][1:])
        kept = turns(both, views.view) < counts[:, views.view]
        return Selection(kept.nonzero()[:, 1].view(len(scores), keep), notes=notes)


def _both(scores: Tensor, views: Views, stitched: tuple[int, int]) -> Tensor:
    """Return the scores ``(B, N)``, those of tiles with those of the thumbnail added."""
    _, side, _ = views.grids[0]
    first = side * side
    thumbnail = scores[:, :first].unflatten(1, (1, side, side))
    resized = torch.nn.functional.interpolate(thumbnail, stitched, mode="bilinear")
    tile = views.view[first:]
    both = _unit_in(scores[:, first:], tile) + _unit_in(resized.flatten(1), tile)
    return torch.cat([scores[:, :first], both], dim=1)


def _unit_in(scores: Tensor, part: Tensor) -> Tensor:
    """Return scores ``(B, N)`` at length one within each part ``(N,)``."""
    squares = scores.new_zeros(len(scores), int(part.max()) + 1)
    squares.scatter_add_(1, part.expand(scores.shape), scores.square())
    return scores / squares.sqrt().clamp_min(1e-12)[:, part]
