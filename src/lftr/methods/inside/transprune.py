"""TransPrune: keep the tokens that layers transform most, together with the text's attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn.functional import cosine_similarity

from ...values.selection import Selection
from ...values.source import Source
from .base import LayerMethod, LayerView, Passage, Reads
from .schedules import Schedule, Stages

_TRANSITION = "transition"
_EPSILON = 1e-8  # in the shares, as published


@dataclass(frozen=True)
class TransPrune(LayerMethod, name="transprune"):
    """Keep the tokens that attention and MLP transform most and that the text attends to.

    The transition of a token in an attention or an MLP is the ratio of the lengths of its output
    and input, times the softmax over the prompt of ``1 - cos(input, output)``. Transitions are
    summed over attention and MLP of the layers from the one before the first cut up to the present
    one. A score is the token's share of the transition plus its share of the text's attention in
    the layer to come.

    Parameters
    ----------
    schedule : Schedule
        By default 7/8, 5/8 and 1/8 of the tokens from layers 7, 9 and 12 of 32 on.

    Notes
    -----
    The default is that of the program for LLaVA-1.5. The text is all text after the image.
    Differs from the original: counts are rounded up (there down), and kept tokens keep their
    positions (there they are renumbered).
    """

    source = Source(
        "TransPrune",
        arxiv="2507.20630",
        venue="CVPR 2026",
        code="https://github.com/liaolea/TransPrune",
        function="compute_transf_weight, transprune_rank_drop",
    )
    follows: ClassVar[bool] = True
    merges: ClassVar[bool] = False
    reads: ClassVar[Reads] = "own text"
    schedule: Schedule = Stages(layers=(7 / 32, 9 / 32, 12 / 32), keep=(7 / 8, 5 / 8, 1 / 8))

    def watches(self, depth: int) -> frozenset[int]:
        cuts = self.schedule.cuts(depth)
        return frozenset(range(cuts[0], cuts[-1] + 1)) if cuts else frozenset()

    def observe(self, view: LayerView) -> None:
        attention, mlp = view.passed
        changed = (transition(attention) + transition(mlp))[view.visual]
        if _TRANSITION in view.memory:
            changed = changed + view.recall(_TRANSITION)
        view.remember(_TRANSITION, changed)

    def select(self, view: LayerView, keep: int) -> Selection:
        changed, attended = view.recall(_TRANSITION), view.received(view.asking)
        changed, attended = (x / (x.sum() + _EPSILON) for x in (changed, attended))
        return Selection.top(changed + attended, keep)


def transition(passage: Passage) -> Tensor:
    """Return how much a part of a layer transforms each token of a prompt: float32 ``(L,)``."""
    entered, left = passage.entered.float(), passage.left.float()
    turn = (1 - cosine_similarity(entered, left, dim=-1)).softmax(dim=0)
    changed: Tensor = left.norm(dim=-1) / entered.norm(dim=-1).clamp_min(1e-12) * turn
    return changed
