"""IVC-Prune: keep tokens whose positions serve as coordinates, and those of the foreground."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from ...options.checks import Range
from ...values.errors import LftrError
from ...values.selection import Selection
from ...values.source import Source
from .base import BLOCK, LayerView, Reads
from .coordinate_tokens import coordinate_tokens
from .one_cut import OneCut
from .schedules import Schedule, Step


@dataclass(frozen=True)
class IVCPrune(OneCut, name="ivc-prune"):
    """Keep tokens whose positions serve as coordinates, and those with values like the question's.

    Coordinates are the tokens with the largest mean cosine and those with the largest mean sine in
    the table of rotary positions: the rotation there is close to none or to a quarter turn. The
    foreground is found by the values of the previous layer. Their similarity is the softmax of
    their products, averaged over heads. The tokens that are most similar to the question are seeds,
    which stay; the rest are the tokens most similar to question and seeds.

    Parameters
    ----------
    schedule : Schedule
        By default half of the tokens from layer 16 of 32 on.
    layer, keep
        Short for ``schedule=Step(layer, keep)``.
    coordinates : float
        Share of the tokens in [0, 1] that stay for their cosine, and again for their sine; at most
        a quarter of those that stay.
    seeds : float
        Share of the tokens in [0, 1] that are seeds, at least one.
    skip : int
        The text tokens right after the image that do not belong to the question.

    Notes
    -----
    The defaults are those of the program for Qwen2.5-VL. For LLaVA-1.5 it has ``coordinates=0.05``
    and keeps the union of coordinates, seeds and the 0.2 most similar tokens. The layer is 16 for
    LLaVA-1.5, Qwen2.5-VL-7B and InternVL2.5-8B, 22 for Qwen2.5-VL-3B.
    Differs from the original: tokens are dropped from the layer on. There they are also taken out
    of the caches of earlier layers, so that these are smaller in decoding. Counts are exact, also
    where coordinates and seeds alone would be more; the quarter is a guess for that case. Where
    positions have three axes (M-RoPE), the table is the one that the layers use (there the mean
    over all frequencies of all axes).
    """

    source = Source(
        "IVC-Prune",
        arxiv="2602.03060",
        venue="ICLR 2026",
        code="https://github.com/FireRedTeam/IVC-Prune",
        function="IVCP_forward_flashattention",
    )
    reads: ClassVar[Reads] = "previous"
    schedule: Schedule = Step(layer=16 / 32, keep=0.5)
    coordinates: Annotated[float, Range(0.0, 1.0)] = 0.1
    seeds: Annotated[float, Range(0.0, 1.0)] = 0.01
    skip: Annotated[int, Range(0)] = 2

    def select(self, view: LayerView, keep: int) -> Selection:
        size = len(view.visual)
        some = min(round(size * self.coordinates), keep // 4)
        chosen = coordinate_tokens(view, some)
        asking = view.asking[self.skip :] if len(view.asking) > self.skip else view.asking
        similar = similarity(view, asking)
        free = keep - int(chosen.sum())
        seeds = Selection.top(similar, min(max(1, round(size * self.seeds)), free)).index
        chosen[seeds] = True
        similar = similar + similarity(view, view.visual[seeds])
        return Selection.top(torch.where(chosen, similar + similar.max() + 1.0, similar), keep)


def similarity(view: LayerView, rows: Tensor) -> Tensor:
    """Return the sum over ``rows`` of their values' similarity to the visual tokens, ``(N,)``.

    A row's similarities to all tokens of the call sum to one in each head.
    """
    if view.read.values is None:
        raise LftrError("the values of the layer before could not be read")
    values = view.read.values[:, -len(view.states) :].float()
    total = torch.zeros(len(view.visual), device=values.device)
    for part in rows.split(max(1, BLOCK // (len(values) * values.shape[1]))):
        products = values[:, part] @ values.mT * values.shape[2] ** -0.5
        total += products.softmax(dim=-1)[..., view.visual].mean(dim=0).sum(dim=0)
    return total
