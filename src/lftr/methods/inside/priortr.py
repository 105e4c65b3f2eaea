"""PriorTR: keep what the question attends to more than the image alone would suggest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from ...values.selection import Selection
from ...values.source import Source
from .base import LayerView, Reads
from .one_cut import OneCut
from .schedules import Schedule, Step

_EPSILON = 1e-10  # in the shares, as published


@dataclass(frozen=True)
class PriorTR(OneCut, name="priortr"):
    """Keep the tokens to which the question attends more than a token that has not seen it does.

    The first token after the image sees the image and not the question: its attention ``q`` is the
    prior. The question's attention is ``p``. Both are averaged over heads and divided by their sums
    over the image; a score is ``p log(p / q)``.

    Parameters
    ----------
    schedule : Schedule
        By default a third of the tokens from layer 3 of 32 on, counted from 0.
    layer, keep
        Short for ``schedule=Step(layer, keep)``.
    question : {"mean", "last"}
        Whose attention is ``p``: the mean of all text after the image, or the last token's.

    Notes
    -----
    Published: 192, 128 or 64 of 576 tokens from layer 3 on, whatever the depth; ``"mean"`` for
    LLaVA-1.5, ``"last"`` for other models.
    Of several images, the text after the last one is used, since it sees all of them. If a single
    token follows, it is prior and question at once, and the tokens are ranked by its attention.
    """

    source = Source(
        "PriorTR",
        arxiv="2606.24156",
        venue="ECCV 2026",
        code="https://github.com/CodeChildCZJ/PriorTR",
        function="PriorTRStrategy.compute_scores",
    )
    schedule: Schedule = Step(layer=3 / 32, keep=192 / 576)
    question: Literal["mean", "last"] = "mean"
    reads: ClassVar[Reads] = "previous"

    def select(self, view: LayerView, keep: int) -> Selection:
        after = torch.arange(int(view.visual[-1]) + 1, len(view.states), device=view.states.device)
        asking = after if self.question == "mean" and len(after) else view.last
        p = view.received(asking)
        if len(after) < 2:
            return Selection.top(p, keep)
        q = view.received(after[:1])
        p, q = (share / (share.sum() + _EPSILON) for share in (p, q))
        return Selection.top(p * ((p + _EPSILON) / (q + _EPSILON)).log(), keep)
