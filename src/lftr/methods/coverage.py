"""Our own: keep tokens that stand for the others."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..indexing import take
from ..selection import Selection
from ..tokens import VisualTokens
from .base import Evidence, Method
from .operations.cells import candidates, spread
from .operations.flows import mean_flow, nearest_to, own
from .operations.scaling import min_max, unit
from .options import between, one_of
from .signals import ENCODER, encoder_features


@dataclass(frozen=True)
class Coverage(Method, name="coverage"):
    """Keep tokens such that every token has a kept one that is like it, by a local kernel.

    Greedy maximisation of ``sum_u w_u max_picked exp(-(1 - cos(u, picked)) / width)``, a weighted
    facility location over evenly spread candidates; ``w = stand-out ** sharpness`` lets tokens
    that stand out from the mean of the image count more. Found on the validation split of the
    bundled suite, see ``benchmarks/coverage_search.py``. Holds the kernel between candidates and
    tokens, ``(B, sqrt(N K), N)``.

    Source: this project.
    Evidence: the encoder's features, or the features.

    Parameters
    ----------
    width : float
        Distance at which a kept token stops standing for another, on the scale of ``1 - cos``.
    sharpness : float
        How much more tokens that stand out count; 0 counts all alike.
    candidates : float
        Only so many geometric means of N and K, evenly spread, can be kept; ``inf`` is all.
    leftovers : {"merge", "drop"}
        Whether dropped tokens flow into the nearest kept one, which becomes their mean, or go.
    """

    width: float = 0.3
    sharpness: float = 0.0
    candidates: float = 1.0
    leftovers: str = "drop"

    def __post_init__(self) -> None:
        between("width", self.width, 1e-3)
        between("sharpness", self.sharpness, 0.0)
        between("candidates", self.candidates, 0.0)
        one_of("leftovers", self.leftovers, ("merge", "drop"))

    @property
    def evidence(self) -> Evidence:
        return (ENCODER,)

    def choose(self, tokens: VisualTokens, keep: int) -> Selection:
        x, notes = encoder_features(tokens)
        x = unit(x)
        centre = unit(x.mean(dim=1, keepdim=True))
        out = min_max(1.0 - (x * centre).sum(dim=-1)).clamp_min(1e-3)
        index = spread(tokens, candidates(tokens.count, keep, self.candidates))
        near = torch.bmm(x[:, index], x.mT).sub_(1.0).div_(self.width).exp_()
        kept = index[_cover(near, out**self.sharpness, keep)].sort(dim=1).values
        if self.leftovers == "drop":
            return Selection(kept, notes=notes)
        slot = own(nearest_to(x, take(x, kept, 1))[0], kept)
        return Selection(kept, mean_flow(slot, keep), notes)


def _cover(near: Tensor, weight: Tensor, keep: int) -> Tensor:
    """Pick greedily among the rows of ``near`` ``(B, P, N)`` what covers most of ``weight``."""
    covered = torch.zeros_like(weight)
    free = torch.zeros_like(near[:, :, 0])
    picks: list[Tensor] = []
    for _ in range(keep):
        gain = (near - covered.unsqueeze(1)).clamp_min_(0.0)
        pick = (torch.bmm(gain, weight.unsqueeze(2)).squeeze(2) + free).argmax(dim=1)
        picks.append(pick)
        free.scatter_(1, pick.unsqueeze(1), -torch.inf)
        covered = torch.maximum(covered, take(near, pick.unsqueeze(1), 1).squeeze(1))
    return torch.stack(picks, dim=1)
