"""SparseVLM+: SparseVLM with attention corrected for distance."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from ...values.budget import Keep, resolve
from ...values.selection import Selection
from ...values.source import Source
from .base import LayerMethod, LayerView, Reads
from .options import check_keep
from .schedules import Schedule, Stages
from .sparsevlm import LAYERS
from .text_raters import raters

_UNCORRECTED = (
    "attention was not corrected for distance: this model's layers are passed no cosines and sines "
    "of rotary positions"
)


@dataclass(frozen=True)
class SparseVLMPlus(LayerMethod, name="sparsevlm-plus"):
    """Keep what relevant text tokens attend to in the strongest heads, corrected for distance.

    Attention is divided by the attention that rotary positions alone would give: the product of a
    query and a key of ones. The relevant text tokens are those of `SparseVLM`; nothing is recycled.

    Parameters
    ----------
    schedule : Schedule
        From layers 2, 6 and 15 of 32 on.
    heads : float or int
        Share or number of heads that are used: those with the most attention from the relevant text
        tokens to the image.

    Notes
    -----
    The original uses 14 of 32 heads. Published for 576 tokens: 300, 200, 118 for an average of 192
    (the default, as shares); 238, 108, 60 for 128; 246, 54, 28 for 96; 66, 34, 20 for 64.
    Differs from the original: the correction uses the model's own rotary tables, whatever their
    base and axes; without such tables nothing is corrected, which is noted. The number of heads is
    a share.
    """

    source = Source(
        "SparseVLM",
        arxiv="2410.04417",
        venue="ICML 2025",
        code="https://github.com/Gumpest/SparseVLMs",
        function="select_attn_head_by_sum",
        note="version 2.0 of the program, SparseVLM+",
    )
    schedule: Schedule = Stages(LAYERS, keep=(300 / 576, 200 / 576, 118 / 576))
    heads: Keep = 14 / 32
    reads: ClassVar[Reads] = "previous"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "heads", check_keep("heads", self.heads))

    def watches(self, depth: int) -> frozenset[int]:
        return frozenset({0})

    def observe(self, view: LayerView) -> None:
        raters(view)  # chosen at the first layer, and kept in memory

    def select(self, view: LayerView, keep: int) -> Selection:
        asking = raters(view)
        each = torch.zeros(
            len(view.read.queries), len(view.visual), device=view.states.device
        )  # a head's corrected attention, summed over the raters
        for rows, attention in view.attention(asking):
            each += (attention / rotary_weights(view, rows)).sum(dim=1)
        strongest = each.sum(dim=1).argsort(descending=True, stable=True)
        scores = each[strongest[: resolve(self.heads, len(each))]].mean(dim=0)
        notes = (_UNCORRECTED,) if view.rotary is None else ()
        return replace(Selection.top(scores, keep), notes=notes)


def rotary_weights(view: LayerView, rows: Tensor) -> Tensor:
    """Return what positions alone give the attention of ``rows`` to the visual tokens.

    Returns
    -------
    Tensor, shape (R, N)
        The product of queries and keys of ones after the rotary embedding, over the root of their
        size, float32; ones in a model that passes its layers no cosines and sines.
    """
    if view.rotary is None:
        return torch.ones(len(rows), len(view.visual), device=view.states.device)
    tables = torch.cat(view.rotary, dim=-1).float()
    weights = tables[rows] @ tables[view.visual].T / (tables.shape[-1] / 2) ** 0.5
    return torch.where(weights == 0, 1.0, weights)
