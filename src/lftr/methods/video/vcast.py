"""V-CAST: more tokens where the clip changes its course, and in each frame the unusual ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from ...options.checks import Range
from ...values.selection import Selection
from ...values.source import Source
from ...values.tokens import VisualTokens
from ..operations.apportion import highest
from ..operations.scaling import unit, with_lengths
from .base import ClipMethod, by_frame


@dataclass(frozen=True)
class VCast(ClipMethod, name="v-cast"):
    """Keep tokens unlike their frame's mean and of large norm; more where the clip turns.

    A frame's curvature is one minus the cosine of the steps to and from it, where a step is the
    difference of the means of two frames at length one; it is 1 for the first and the last frame.
    Every frame keeps one token, and the others are shared by the softmax of the curvature. In a
    frame, the score is one minus the cosine with its mean, plus the norm scaled to [0, 1].

    Parameters
    ----------
    temperature : float
        Divisor of the curvature in the softmax.

    Notes
    -----
    As in the program, shares are rounded down, and what is left goes to the frame with the largest
    remainder, until it is whole, then to the next.
    Differs from the original: a clip of one frame is reduced too. With fewer tokens than frames,
    the frames with the largest shares keep one token each.
    """

    source = Source(
        "V-CAST",
        arxiv="2603.27650",
        code="https://github.com/xinyouu/V-CAST",
        function="v_cast_compress_qwen3",
    )
    temperature: Annotated[float, Range(1e-6)] = 0.7

    def clips(self, tokens: VisualTokens, keep: int) -> Selection:
        x = by_frame(tokens, tokens.features).float()
        means = unit(x.mean(dim=2))
        shares = (curvature(means) / self.temperature).softmax(dim=1).cpu()
        counts = torch.stack([frame_counts(share, keep, x.shape[2]) for share in shares])
        rows, length = with_lengths(x)
        product = torch.bmm(means.flatten(0, 1).unsqueeze(1), rows.flatten(0, 1).mT)
        unlike = 1.0 - product.view(length.shape) / length.where(length > 0, 1.0)
        # of any finite features: those that are too large or too small for float32 are a copy
        norm = length if rows is x else torch.linalg.vector_norm(x, dim=3, dtype=torch.float64)
        low, high = norm.aminmax(dim=2, keepdim=True)
        score = unlike + (norm - low) / (high - low + 1e-6)
        kept = highest(score.flatten(0, 1), counts.flatten().to(x.device))
        return Selection(kept.view(len(x), -1).nonzero()[:, 1].reshape(len(x), keep))


def curvature(means: Tensor) -> Tensor:
    """Return how much each frame of ``(B, T, C)`` changes the direction of the clip, ``(B, T)``."""
    bend = torch.ones(means.shape[:2], device=means.device)
    steps = means.diff(dim=1)
    bend[:, 1:-1] -= torch.cosine_similarity(steps[:, 1:], steps[:, :-1], dim=2, eps=1e-6)
    return bend


def frame_counts(share: Tensor, keep: int, size: int) -> Tensor:
    """Return how many of its ``size`` tokens each frame keeps, ``keep`` in all, by its share.

    Parameters
    ----------
    share : Tensor, shape (T,), on the CPU
        Positive.
    """
    if keep < len(share):
        return highest(share[None], torch.tensor([keep]))[0].long()
    claim = share / share.sum() * (keep - len(share))
    floor = claim.floor()
    counts = 1 + floor.clamp_max(size - 1).long()
    left = keep - int(counts.sum())
    for frame in (claim - floor).argsort(descending=True, stable=True).tolist():
        if not left:
            break
        more = min(left, size - int(counts[frame]))
        counts[frame] += more
        left -= more
    return counts
