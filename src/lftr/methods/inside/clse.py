"""CLSE: keep the tokens whose fine detail changes between layers and that are attended to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from ...options.checks import Range
from ...values.places import Places
from ...values.selection import Selection
from ...values.source import Source
from .base import LayerMethod, LayerView, Reads
from .schedules import Schedule, Stages

_REFERENCE = "states of layer 0"
_EPSILON = 1e-6  # in the quotients, as published


@dataclass(frozen=True)
class CLSE(LayerMethod, name="clse"):
    """Keep the tokens whose high frequencies change most between layers, weighted by attention.

    The detail of a token is what a high-pass filter over the image's grid leaves of its state, the
    mean of the absolute values over channels. Its evolution is the relative change of the detail
    since the embeddings, standardised over the image and squashed by a sigmoid. Before the first
    layer with fewer tokens, a score is the evolution times the last token's attention, averaged
    over heads; later, when the grid has gaps, the attention alone.

    Parameters
    ----------
    schedule : Schedule
        By default 330, 210 and 62 of 576 tokens from layers 1, 11 and 21 of 32 on.
    cutoff : float
        Width of the low frequencies that are removed, as a share of half the grid's shorter side;
        at least 1e-6.
    temperature : float
        Of the sigmoid, at least 1e-6.

    Notes
    -----
    Published for 576 tokens: 330, 210 and 62 for an average of 192 (the default, as shares), 220,
    140 and 41 for 128, 110, 70 and 20 for 64; of 28 layers, from 1, 10 and 19 on.
    Differs from the original: counts are rounded up, and tokens are dropped from a layer on (there
    they are also taken out of the caches of earlier layers). Every image, tile and frame has its
    own filter; changes are standardised over the tokens of all of them (there one image, or the
    frames of one video). Layout tokens, and blocks that lack tokens because of an earlier method,
    have the factor of the mean change, 1/2; that is a guess.
    """

    source = Source(
        "CLSE",
        arxiv="2606.24165",
        venue="ECCV 2026",
        code="https://github.com/zjubinchen/CLSE",
        function="calculate_evolution_score",
    )
    merges: ClassVar[bool] = False
    reads: ClassVar[Reads] = "previous"
    schedule: Schedule = Stages(layers=(1, 11 / 32, 21 / 32), keep=(330 / 576, 210 / 576, 62 / 576))
    cutoff: Annotated[float, Range(1e-6, 1.0)] = 0.1
    temperature: Annotated[float, Range(1e-6)] = 0.1

    def watches(self, depth: int) -> frozenset[int]:
        return frozenset({0})

    def observe(self, view: LayerView) -> None:
        if view.layer == 0:
            view.remember(_REFERENCE, view.states[view.visual])

    def select(self, view: LayerView, keep: int) -> Selection:
        scores = view.received(view.last)
        if view.layer == self.schedule.cuts(view.depth)[0]:
            scores = scores * self.evolution(view)
        return Selection.top(scores, keep)

    def evolution(self, view: LayerView) -> Tensor:
        """Return the factor of each visual token, float32 ``(N,)``."""
        before, now = view.recall(_REFERENCE), view.states[view.visual]
        factor = torch.full((len(now),), 0.5, device=now.device)
        whole = whole_blocks(view.places)
        if not whole:
            return factor
        tokens = torch.cat([index for index, _ in whole])
        old, new = (
            torch.cat([detail(x[index], grid, self.cutoff) for index, grid in whole])
            for x in (before, now)
        )
        rate = ((new - old).abs() / (old.mean() + old + _EPSILON)).clamp(max=1)
        spread = rate.std() if len(rate) > 1 else rate.new_zeros(())
        standard = (rate - rate.mean()) / (spread + _EPSILON)
        factor[tokens] = (standard / self.temperature).sigmoid()
        return factor


def whole_blocks(places: Places) -> list[tuple[Tensor, tuple[int, int]]]:
    """Return the tokens of every block that lacks none, in raster order, and the block's grid."""
    block, row, column = places.coordinates.unbind(dim=1)
    whole = []
    for number, (rows, columns) in enumerate(places.blocks):
        tokens = (block == number).nonzero().squeeze(1)
        if len(tokens) == rows * columns:
            order = (row[tokens] * columns + column[tokens]).argsort()
            whole.append((tokens[order], (rows, columns)))
    return whole


def detail(x: Tensor, grid: tuple[int, int], cutoff: float) -> Tensor:
    """Return the mean absolute value over channels of high-passed tokens ``(N, C)`` of a grid.

    The filter is one minus a Gaussian around frequency zero.

    Returns
    -------
    Tensor, shape (N,)
        Float32.
    """
    frequencies = torch.fft.fft2(x.float().unflatten(0, grid), dim=(0, 1))
    # distances from frequency zero, in steps; of an even side, -n/2 is the highest
    high, wide = (torch.fft.fftfreq(n, 1 / n, device=x.device) for n in grid)
    square = high[:, None].square() + wide.square()
    width = min(n // 2 for n in grid) * cutoff
    passed = 1 - torch.exp(-square / max(2 * width**2, 1e-6))
    fine: Tensor = torch.fft.ifft2(frequencies * passed[..., None], dim=(0, 1)).abs()
    return fine.mean(dim=-1).flatten()
