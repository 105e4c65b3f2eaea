"""FEATHER: attention without positions, united with a grid of evenly spaced tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch

from ...options.checks import Range
from ...values.selection import Selection
from ...values.source import Source
from .base import LayerMethod, LayerView, Reads
from .schedules import Schedule, Stages


@dataclass(frozen=True)
class Feather(LayerMethod, name="feather"):
    """Keep what the last token attends to without rotary positions, at first with an even grid.

    With rotary positions, early attention favours the tokens nearest to the text, which are the
    bottom of the image. Here queries and keys have none. The attention is normalised over the
    visual tokens and averaged over heads. Before the first layer with fewer tokens, every
    ``stride``-th row and column of each image stays as well; later the attention decides alone.

    Parameters
    ----------
    schedule : Schedule
        By default 0.378 and 0.034 of the tokens from layers 8 and 16 of 32 on.
    stride : int
        Distance of the grid's tokens in rows and columns, at least 1.

    Notes
    -----
    Published: the first stage keeps 0.3 of the tokens by attention and the grid of stride 3; the
    second keeps 0.09 of those that are left. The default counts are those for 576 tokens if
    attention and grid are independent.
    Differs from the original: counts are exact. There the first count is that of the union, which
    depends on the prompt; with the same count the choice is the same. If the grid has more tokens
    than may stay, those with the most attention do. Every image, tile and frame has a grid (there
    one square image).
    """

    source = Source(
        "FEATHER",
        arxiv="2412.13180",
        venue="ICCV 2025",
        code="https://github.com/markendo/FEATHER",
        function="FastVLlamaModel.forward, calculate_attention_weight",
    )
    merges: ClassVar[bool] = False
    reads: ClassVar[Reads] = "unrotated"
    schedule: Schedule = Stages(layers=(8 / 32, 16 / 32), keep=(0.378, 0.034))
    stride: Annotated[int, Range(1)] = 3

    def select(self, view: LayerView, keep: int) -> Selection:
        logits = view.read.logits(view.last)[:, 0, view.visual + view.read.offset]
        scores = logits.softmax(dim=-1).mean(dim=0)
        if view.layer == self.schedule.cuts(view.depth)[0]:
            block, row, column = view.places.coordinates.unbind(dim=1)
            grid = (block >= 0) & (row % self.stride == 0) & (column % self.stride == 0)
            scores = torch.where(grid, scores + 1.0, scores)  # attention is at most 1
        return Selection.top(scores, keep)
