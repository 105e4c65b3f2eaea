"""PruneVid, its stage before the language model: stretches, what stands still, clusters."""

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
from ..operations.density import join_peaks, peak_scores
from ..operations.parts import Parts
from ..operations.scaling import unit
from ..operations.segments import clustered
from .base import ClipMethod, own_counts
from .holitom import highest


@dataclass(frozen=True)
class PruneVid(ClipMethod, name="prunevid"):
    """Merge what stands still in each stretch of like frames, then clusters of what is left.

    Frames cluster by their means, and the clip is cut where clusters change. A position that looks
    the same all through a stretch is one token, its mean. That, and what moves in each frame,
    clusters around density peaks; a slot is the mean of a cluster.

    Parameters
    ----------
    clusters : float
        Clusters of frames, as a share of their number, in (0, 1].
    threshold : float
        Mean cosine between all pairs of a stretch's frames above which a position stands still.
    share : float
        Share of its tokens, in (0, 1], that a part keeps.
    few : int
        Tokens up to which a part keeps all.
    neighbours : int
        Nearest tokens, or frames, that make a density.

    Notes
    -----
    No output of the original program was at hand to compare with. Its second stage, at layer 10 of
    the language model, is not part of this method; any method inside the language model composes
    with it.
    Differs: the count is exact. ``keep="auto"`` is the original's own, at which the parts keep what
    they keep there; at others they keep in that proportion, and where more is to be kept than is
    left once all that stands still is one, what stands still the least is taken as moving.
    """

    source = Source(
        "PruneVid", arxiv="2412.16117", venue="ACL 2025", note="its spatial-temporal merging"
    )
    clusters: Annotated[float, Range(1e-6, 1.0)] = 0.25
    threshold: Annotated[float, Range(-1.0, 1.0)] = 0.8
    share: Annotated[float, Range(1e-6, 1.0)] = 0.5
    few: Annotated[int, Range(0)] = 14
    neighbours: Annotated[int, Range(1)] = 7

    def clip(self, tokens: VisualTokens, keep: int) -> Selection:
        x = _frames(tokens)
        parts, score = self._parts(x)
        parts = parts.loosened(score, keep)
        members = parts.members
        sizes = members.sum(dim=1)
        counts = apportion(keep, self._own(sizes)[None], sizes)[0].to(x.device)
        held = torch.cat([parts.stills(x), x.float()])
        peaks = highest(peak_scores(held, self.neighbours, members), counts)
        leader = join_peaks(held, peaks)
        return parts.selection(leader.masked_fill(~members | (counts == 0).unsqueeze(1), -1))

    def auto_count(self, tokens: VisualTokens) -> list[int]:
        return own_counts(tokens, self._natural)

    def _natural(self, tokens: VisualTokens) -> list[int]:
        clips = [_frames(tokens.item(i)) for i in range(len(tokens.features))]
        parts = [self._parts(x)[0] for x in clips]
        return [int(self._own(part.members.sum(dim=1)).sum()) for part in parts]

    def _own(self, sizes: Tensor) -> Tensor:
        """Return how many tokens parts of the given sizes keep in the original."""
        return torch.where(sizes > self.few, (sizes * self.share).int().clamp_min(1), sizes)

    def _parts(self, x: Tensor) -> tuple[Parts, Tensor]:
        """Return the stretches of a clip ``(T, N, C)`` with what stands still, and how still."""
        count = max(1, int(len(x) * self.clusters))
        segments = clustered(x.float().mean(dim=1), count, self.neighbours)
        score = torch.stack([_likeness(x[first:end]) for first, end in segments])
        return Parts(segments, score > self.threshold), score


def _frames(tokens: VisualTokens) -> Tensor:
    frames, height, width = tokens.blocks[0]
    return tokens.features.reshape(frames, height * width, -1)


def _likeness(x: Tensor) -> Tensor:
    """Return each position's mean cosine over all pairs of frames ``(T, N, C)``: ``(N,)``.

    Minus infinity for a single frame, in which nothing is said to stand still.
    """
    frames = len(x)
    if frames == 1:
        return torch.full((x.shape[1],), -torch.inf, device=x.device)
    x = unit(x)
    both = x.sum(dim=0).square().sum(dim=1) - x.square().sum(dim=(0, 2))
    return both / (frames * (frames - 1))
