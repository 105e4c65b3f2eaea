"""VidCom2: distinctive frames keep more, and in each frame the distinctive tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from ...options.checks import Range
from ...values.selection import Selection
from ...values.source import Source
from ...values.tokens import VisualTokens
from ..operations.apportion import apportion
from ..operations.scaling import unit
from .base import ClipMethod, by_frame, natural_counts

_WIDEST, _NARROWER = 2.0, 4  # widths of the Gaussians: 2, 1, 1/2, 1/4, 1/8, as published


@dataclass(frozen=True)
class VidCom2(ClipMethod, name="vidcom2"):
    """Keep the tokens least similar to the means of frame and clip; more in distinctive frames.

    Similarity is a sum of Gaussians of five widths, computed in the half of the channels with the
    least variance. The share of a frame is ``1 + p - mean(p)`` times an equal one, where ``p`` is
    the softmax over frames of their dissimilarity to the clip.

    Parameters
    ----------
    temperature : float
        Temperature of the softmax. At 0.01, as published, one frame gets nearly all of ``p``.
    base_scale : float
        Share of a clip that ``keep="auto"`` keeps, approximately.

    Notes
    -----
    Differs from the original: the count is exact (there each frame's is rounded, to about
    ``base_scale`` in all). For the totals that the original can reach, frames keep the same number
    as there. With fewer tokens than frames, the most distinctive frames keep one token each.
    """

    source = Source(
        "VidCom2",
        arxiv="2505.14454",
        venue="EMNLP 2025",
        code="https://github.com/xuyang-liu16/VidCom2",
        function="vidcom2_compression",
    )
    temperature: Annotated[float, Range(1e-6)] = 0.01
    base_scale: Annotated[float, Range(1e-6, 1.0)] = 0.25

    def clips(self, tokens: VisualTokens, keep: int) -> Selection:
        to_clip, to_frame = likenesses(by_frame(tokens, tokens.features))
        frames, size = to_clip.shape[1:]
        limits = torch.full((frames,), size)
        counts = apportion(keep, self.shares(to_clip), limits, least=1).to(to_clip.device)
        order = (to_clip + to_frame).argsort(dim=2, stable=True)
        kept = torch.arange(size, device=order.device) < counts.unsqueeze(2)
        mask = torch.zeros_like(kept).scatter_(2, order, kept)
        return Selection(mask.flatten(1).nonzero()[:, 1].reshape(len(mask), keep))

    def auto_count(self, tokens: VisualTokens) -> list[int]:
        return natural_counts(tokens, self._natural)

    def shares(self, to_clip: Tensor) -> Tensor:
        """Return each frame's share ``(B, T)``, one on average, of ``to_clip`` ``(B, T, N)``."""
        unlike = -to_clip.mean(dim=2)
        p = (unlike / self.temperature).softmax(dim=1)
        return 1.0 + p - p.mean(dim=1, keepdim=True)

    def _natural(self, tokens: VisualTokens) -> list[int]:
        to_clip, _ = likenesses(by_frame(tokens, tokens.features))
        shares = (self.base_scale * self.shares(to_clip)).clamp_max(1.0)
        counts = (shares * to_clip.shape[2]).round().clamp_min(1.0).sum(dim=1)
        return [int(count) for count in counts.tolist()]


def likenesses(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the likeness of every token to the clip's mean and to its frame's, ``(B, T, N)`` each.

    Parameters
    ----------
    x : Tensor, shape (B, T, N, C)
    """
    x = unit(_steadiest(x))
    in_frame = x.mean(dim=2)
    return _likeness(x, in_frame.mean(dim=1, keepdim=True)), _likeness(x, in_frame)


def _steadiest(x: Tensor) -> Tensor:
    """Return the half of the channels with the lowest variance over all tokens."""
    centre = x.mean(dim=(1, 2), dtype=torch.float32).unsqueeze(1)
    variance = torch.zeros_like(centre.squeeze(1))
    for frame in x.unbind(1):  # one at a time, which stays in the cache
        variance += (frame - centre).square_().sum(dim=1)
    number = max(1, x.shape[3] // 2)
    least = variance.argsort(dim=1, stable=True)[:, :number].sort(dim=1).values
    return torch.stack([item[..., channels] for item, channels in zip(x, least, strict=True)])


def _likeness(x: Tensor, centre: Tensor) -> Tensor:
    """Return how like its centre ``(B, T or 1, C)`` each token is: a sum of Gaussians."""
    batch, frames = x.shape[:2]
    each = centre.expand(batch, frames, -1).flatten(0, 1).unsqueeze(1)
    inner = torch.bmm(each, x.flatten(0, 1).mT).view(x.shape[:3])
    centre_square = centre.square().sum(dim=2, keepdim=True)
    distance = (1.0 - 2.0 * inner + centre_square).clamp_min(0.0)  # squared; tokens have length one
    term = torch.exp(distance / -(2.0 * _WIDEST))
    total = term
    for _ in range(_NARROWER):  # half the width is the square
        term = term.square()
        total = total + term
    return total
