"""HoloV: a budget for each part of the image, and the most attended tokens of each part."""

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
from ..operations.apportion import floored
from ..operations.scaling import unit
from ..operations.signals import SALIENCY, saliency
from ..operations.turns import turns


@dataclass(frozen=True)
class HoloV(Method, name="holov"):
    """Divide the tokens into runs, give each a budget, and keep the most attended tokens of each.

    A run is a piece of the raster order. Its score is its mean attention plus ``variance`` times
    the mean variance of the cosines within the run, where the variance is scaled to the size of
    the attention. Budgets are the scores' shares of ``keep``, rounded down; what is left goes to
    the runs of the highest scores, one token each.

    Parameters
    ----------
    runs : int
        Number of runs; 16 as published.
    variance : float
        Weight of the variance, at least 0; 0.09 as in the original program. Since the variance is
        scaled to the mean attention, it raises every score by nearly the same factor.

    Notes
    -----
    Evidence: CLS attention, or the attention received; features.
    Differs from the original: what a run cannot take goes to runs with tokens left, by the same
    rule (there the output is filled with zeros). A run of one token is scored like the others
    (there lower by a factor of 1000).
    """

    source = Source(
        "HoloV",
        arxiv="2510.02912",
        venue="NeurIPS 2025",
        code="https://github.com/obananas/HoloV",
        function="HoloV",
    )
    runs: Annotated[int, Range(1)] = 16
    variance: Annotated[float, Range(0.0)] = 0.09

    @property
    def evidence(self) -> Evidence:
        return (SALIENCY,)

    def choose(self, tokens: VisualTokens, keep: int) -> Selection:
        attention, notes = saliency(tokens)
        place, inside = _runs(tokens.count, min(self.runs, tokens.count))
        place, inside = place.to(attention.device), inside.to(attention.device)
        sizes = inside.sum(dim=1)
        seen = attention[:, place].masked_fill(~inside, 0.0)
        spread = _variance(unit(tokens.features)[:, place], inside)
        scores = seen.sum(dim=2) / sizes * (1.0 + self.variance * spread / (spread + 1e-6))
        counts = floored(keep, scores, sizes).to(seen.device)
        run = torch.arange(len(sizes), device=seen.device).repeat_interleave(sizes)
        kept = turns(attention, run) < counts[:, run]
        index = kept.nonzero()[:, 1].view(len(seen), keep)
        return Selection(index, notes=notes)


def _runs(total: int, count: int) -> tuple[Tensor, Tensor]:
    """Return the tokens ``(count, L)`` of each run, and which of them are tokens of the run.

    The first runs have one token more where the tokens do not divide.
    """
    size, spare = divmod(total, count)
    run = torch.arange(count, device="cpu")
    sizes = size + (run < spare).long()
    step = torch.arange(int(sizes[0]), device="cpu")
    place = (sizes.cumsum(0) - sizes).unsqueeze(1) + step
    return place.clamp_max(total - 1), step < sizes.unsqueeze(1)


def _variance(x: Tensor, inside: Tensor) -> Tensor:
    """Return the mean over the tokens of each run of the variance of their cosines, ``(B, P)``.

    As in the original, a token's cosine with itself counts as zero in the variance and not in the
    mean.

    Parameters
    ----------
    x : Tensor, shape (B, P, L, C)
        The tokens of each run at length one.
    inside : Tensor of bool, shape (P, L)
        Which of them are tokens of the run.
    """
    x = x * inside.unsqueeze(2)
    cosine = x @ x.mT
    cosine.diagonal(dim1=2, dim2=3).zero_()
    sizes = inside.sum(dim=1)
    others = (sizes - 1).clamp_min(1).unsqueeze(1)
    mean = cosine.sum(dim=3, keepdim=True) / others.unsqueeze(2)
    squares = (cosine - mean).square() * (inside.unsqueeze(2) & inside.unsqueeze(1))
    return (squares.sum(dim=3) / others).sum(dim=2) / sizes
