"""ApET: keep the tokens that a few others approximate worst, and merge the rest into them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from ...options.checks import Range
from ...values.indexing import take
from ...values.selection import Selection
from ...values.source import Source
from ...values.tokens import VisualTokens
from ..base import Evidence, Method
from ..operations.flows import mean_flow, nearest, with_anchors
from ..operations.signals import ENCODER, encoder_features


@dataclass(frozen=True)
class ApET(Method, name="apet"):
    """Keep a few far-apart tokens and those that these approximate worst; merge the others.

    Farthest-point sampling (Euclidean) chooses the basis. Every other token is approximated by the
    linear combination of the basis that is nearest to it, and those with the largest error are
    kept. A token that is dropped is averaged into the kept token that it is most like by cosine;
    tokens of the basis are left as they are.

    Parameters
    ----------
    basis : int
        Number of tokens of the basis, at least 1; 10 as published. All of them are kept.

    Notes
    -----
    Evidence: encoder features; no attention.
    Differs from the original: sampling starts with the token that is farthest from the mean (there
    with a random one). Tokens of the basis keep their own positions, and are merged into no other
    (there they replace the tokens of the next largest errors, stand at their positions, and are
    merged into others as well). With at most ``basis`` slots, the first tokens of the basis are
    kept and the others merged into them (there an error). The second cut, in a middle layer of the
    language model, is not included.
    """

    source = Source(
        "ApET",
        arxiv="2602.19870",
        venue="CVPR 2026",
        code="https://github.com/MaQianKun0/ApET",
        function="LlavaMetaForCausalLM.encode_images",
        note="the part before the language model",
    )
    basis: Annotated[int, Range(1)] = 10

    @property
    def evidence(self) -> Evidence:
        return (ENCODER,)

    def choose(self, tokens: VisualTokens, keep: int) -> Selection:
        x, notes = encoder_features(tokens)
        x = x.float()
        largest = x.abs().amax(dim=(1, 2), keepdim=True)
        scaled = x / largest.clamp_min(torch.finfo(x.dtype).tiny)  # so that no square overflows
        basis = _far_apart(scaled, min(self.basis, keep))
        errors = _errors(scaled, basis).scatter(1, basis, -1.0)
        worst = errors.argsort(dim=1, descending=True, stable=True)[:, : keep - basis.shape[1]]
        index = torch.cat([worst, basis], dim=1)
        slot = nearest(x, worst if worst.shape[1] else basis)[0]
        return Selection(index, mean_flow(with_anchors(slot, index), keep), notes)


def _far_apart(x: Tensor, count: int) -> Tensor:
    """Return ``count`` tokens ``(B, count)``, each the farthest from all before it.

    The first is the farthest from the mean; ties go to the earlier token.
    """
    left = torch.full(x.shape[:2], torch.inf, device=x.device)
    distance = (x - x.mean(dim=1, keepdim=True)).square().sum(dim=2)
    picks: list[Tensor] = []
    while len(picks) < count:
        pick = (distance if not picks else left).argmax(dim=1, keepdim=True)
        picks.append(pick)
        left = left.minimum((x - take(x, pick, 1)).square().sum(dim=2))
        for taken in picks:
            left.scatter_(1, taken, -1.0)
    return torch.cat(picks, dim=1)


def _errors(x: Tensor, basis: Tensor) -> Tensor:
    """Return how far each token ``(B, N)`` is from the span of the tokens ``basis`` ``(B, M)``.

    The least squares are regularised as little as double precision allows. Errors that rounding
    alone makes are zero.
    """
    x = x.double()
    span = take(x, basis, 1)
    size = x.square().sum(dim=2).mean(dim=1)[:, None, None]
    ridge = 1e-8 * size.clamp_min(1e-30) * torch.eye(span.shape[1], dtype=x.dtype, device=x.device)
    factor = torch.linalg.solve(span @ span.mT + ridge, span @ x.mT)
    errors: Tensor = (x - factor.mT @ span).norm(dim=2)
    return errors.where(errors > 1e-6 * size.squeeze(2).sqrt(), 0.0)
