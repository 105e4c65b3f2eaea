"""Keep what differs from a few pivots."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..indexing import take
from ..selection import Selection
from ..tokens import VisualTokens
from .base import Evidence, Method
from .operations.scaling import unit
from .options import one_of, whole
from .signals import Notes


@dataclass(frozen=True)
class Dart(Method, name="dart"):
    """Keep pivots and, for each of them, the tokens that resemble it least (duplication-aware).

    Pivots are the tokens of largest L1 norm, of the image and of the text; the latter choose, but
    are not part of the count. Each takes its quota of the tokens that no earlier one took.

    Parameters
    ----------
    pivots : int
        Pivots of the image, at least 1; they are kept.
    text_pivots : int
        Pivots of the text, at least 0.
    norm : {"features", "keys"}
        What the L1 norm of an image token is taken of.

    Notes
    -----
    Source: DART (arXiv 2502.11494), section 4, as ported in ModelTC/LightCompress
    (``get_retained_image_token``), here on the embeddings that enter the language model.
    Evidence: the prompt's own token embeddings; without text the image's pivots choose alone.
    Differs: K is exact (the original keeps ``pivots + all pivots * quota`` tokens; what is left
    over goes to the first pivots, one each); pivots choose in the order of their norm, the image's
    first (the original: in that of a Python set).
    """

    pivots: int = 4
    text_pivots: int = 4
    norm: str = "features"

    def __post_init__(self) -> None:
        whole("pivots", self.pivots, 1)
        whole("text_pivots", self.text_pivots, 0)
        one_of("norm", self.norm, ("features", "keys"))

    @property
    def evidence(self) -> Evidence:
        keys: Evidence = (("keys",),) if self.norm == "keys" else ()
        return ((("text_token_embeds",),) if self.text_pivots else ()) + keys

    def choose(self, tokens: VisualTokens, keep: int) -> Selection:
        x = tokens.features.float()
        _, measured = tokens.evidence(self.norm)
        own = _largest(measured, min(self.pivots, keep))
        notes: Notes = ()
        pivots = take(x, own, 1)
        text = tokens.text_token_embeds
        if self.text_pivots and text is not None:
            said = take(text.float(), _largest(text, min(self.text_pivots, text.shape[1])), 1)
            pivots = torch.cat([pivots, said], dim=1)
        elif self.text_pivots:
            notes = ("without text, the image's pivots chose alone",)
        cosine = torch.bmm(unit(pivots), unit(x).mT)
        taken = torch.zeros(x.shape[:2], device=x.device).scatter_(1, own, torch.inf)
        quota, spare = divmod(keep - own.shape[1], pivots.shape[1])
        picks = [own]
        for p in range(pivots.shape[1]):
            order = (cosine[:, p] + taken).argsort(dim=1, stable=True)
            picks.append(order[:, : quota + (p < spare)])
            taken.scatter_(1, picks[-1], torch.inf)
        return Selection(torch.cat(picks, dim=1), notes=notes)


def _largest(x: Tensor, count: int) -> Tensor:
    """Return the rows ``(B, count)`` of largest L1 norm, in that order; ties go to the earlier."""
    return x.float().abs().sum(dim=2).argsort(dim=1, descending=True, stable=True)[:, :count]
