"""V2Drop: keep the tokens whose states change most from layer to layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...values.selection import Selection
from ...values.source import Source
from .base import LayerMethod, LayerView
from .schedules import Schedule, Stages


@dataclass(frozen=True)
class V2Drop(LayerMethod, name="v2drop"):
    """Keep the tokens that the layer before changed most, by Euclidean distance, in three stages.

    Parameters
    ----------
    schedule : Schedule
        By default 1/2, 1/4 and 1/576 of the tokens from layers 3, 17 and 22 of 32 on.

    Notes
    -----
    The default is that of the program for LLaVA-1.5; for Qwen2-VL it keeps 1/4, 1/80 and one token
    from layers 3, 16 and 22 of 28 on. No attention is read.
    Differs from the original: counts are rounded up (there down), and the last stage keeps one
    token of 576, not one of any number.
    """

    source = Source(
        "V2Drop",
        arxiv="2509.01552",
        venue="CVPR 2026",
        code="https://github.com/xuyang-liu16/V2Drop",
        note="its block in the language model's forward",
    )
    merges: ClassVar[bool] = False
    schedule: Schedule = Stages(layers=(3 / 32, 17 / 32, 22 / 32), keep=(1 / 2, 1 / 4, 1 / 576))

    def watches(self, depth: int) -> frozenset[int]:
        return frozenset(layer - 1 for layer in self.schedule.cuts(depth))

    def observe(self, view: LayerView) -> None:
        if view.layer in self.watches(view.depth):
            view.remember(f"states of layer {view.layer}", view.states[view.visual])

    def select(self, view: LayerView, keep: int) -> Selection:
        before = view.recall(f"states of layer {view.layer - 1}")
        change = view.states[view.visual].float() - before.float()
        return Selection.top(change.norm(dim=-1), keep)
