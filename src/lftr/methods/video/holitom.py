"""HoliTom's stage before the language model: merge static positions, then rank by attention."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

import torch
from torch import Tensor

from ...options.checks import Range
from ...values.selection import Selection
from ...values.source import Source
from ...values.tokens import VisualTokens
from ..base import Evidence
from ..operations.apportion import CEILED, ROUNDED, apportion, highest
from ..operations.clip_parts import ClipParts
from ..operations.density import peak_clusters
from ..operations.motion import stillness
from ..operations.segments import still_windows
from ..operations.signals import SALIENCY, saliency
from .base import ClipMethod


@dataclass(frozen=True)
class HoliTom(ClipMethod, name="holitom"):
    """Keep static positions once for each segment of the clip, and the most attended other tokens.

    A position is static in a segment if its token hardly changes from frame to frame there. The
    clip is divided into the segments that save most tokens when each static position is kept only
    once, as its mean over the frames. The static tokens of a segment are clustered around density
    peaks. Of the other tokens of each frame, those with the most attention are kept. Every segment
    and every frame keeps the same share of its tokens.

    Parameters
    ----------
    threshold : float
        Cosine with the frame before, above which a token counts as unchanged. Published: 0.65 where
        10 % of the tokens are kept, 0.8 for 15 to 25 %.
    contextual : float
        Share in [0, 1] of a frame's slots that go to density peaks among the tokens with less
        attention, which are merged into these peaks. At 0, as published, those tokens are dropped.
    neighbours : int
        Number of nearest tokens from which the density is computed; at most the number of clusters.
    own : float
        Weight in [0, 1] of the density peak in the mean of its cluster.
    mean : bool
        Whether all tokens of a cluster have equal weight instead.
    longest : int
        Largest number of frames in a segment.

    Notes
    -----
    Evidence: attention (in the original that of SigLIP's last layer, averaged over heads and
    queries).
    Differs from the original: the count is exact. For the totals that the original can reach, every
    segment and frame keeps the same number as there. If more tokens are to be kept than are left
    after static positions are merged, the static positions that change most are not merged. No
    random noise is added to densities.
    """

    source = Source(
        "HoliTom",
        arxiv="2505.21334",
        venue="NeurIPS 2025",
        code="https://github.com/cokeshao/HoliTom",
        function="select_static_windows",
        note="its part before the language model",
    )
    threshold: Annotated[float, Range(-1.0, 1.0)] = 0.8
    contextual: Annotated[float, Range(0.0, 1.0)] = 0.0
    neighbours: Annotated[int, Range(1)] = 7
    own: Annotated[float, Range(0.0, 1.0)] = 0.6
    mean: bool = False
    longest: Annotated[int, Range(1)] = 1024

    @property
    def evidence(self) -> Evidence:
        return (SALIENCY,)

    def clip(self, tokens: VisualTokens, keep: int) -> Selection:
        frames, height, width = tokens.blocks[0]
        attention, notes = saliency(tokens.as_batch())
        x = tokens.features.reshape(frames, height * width, -1)
        parts = self.parts(x, keep)
        members = parts.members
        sizes, stretches = members.sum(dim=1), len(parts.segments)
        offset = torch.full((len(sizes),), CEILED)
        offset[:stretches] = ROUNDED
        counts = apportion(keep, sizes[None], sizes, offset)[0].to(x.device)
        still = self._cluster_leaders(parts.stills(x), parts.still, counts[:stretches])
        moving = self._attended_leaders(
            x, attention.reshape(frames, -1), members[stretches:], counts[stretches:]
        )
        leader_share = None if self.mean else self.own
        return replace(parts.selection(torch.cat([still, moving]), leader_share), notes=notes)

    def parts(self, x: Tensor, keep: int) -> ClipParts:
        """Return the segments of a clip ``(T, N, C)`` and the static positions of each."""
        like = stillness(x[None])[0]
        segments = still_windows(like > self.threshold, self.longest)
        never = torch.full_like(x[0, :, 0], -torch.inf, dtype=torch.float32)
        score = torch.stack(
            [
                like[first : end - 1].amin(dim=0) if end - first > 1 else never
                for first, end in segments
            ]
        )
        return ClipParts(segments, score > self.threshold).loosened(score, keep)

    def _cluster_leaders(self, x: Tensor, members: Tensor, counts: Tensor) -> Tensor:
        """Return the leader ``(R, N)`` of each member: the nearest of the part's density peaks."""
        if not bool(counts.any()):
            return torch.full_like(members, -1, dtype=torch.int64)
        leader = peak_clusters(x, counts.clamp(1, self.neighbours), members, counts)
        return leader.masked_fill(~members | (counts == 0).unsqueeze(1), -1)

    def _attended_leaders(
        self, x: Tensor, score: Tensor, members: Tensor, counts: Tensor
    ) -> Tensor:
        """Return the leader ``(T, N)`` of each dynamic token: itself for the most attended."""
        dominant = (counts.double() * (1.0 - self.contextual)).round().long()
        merging = counts - dominant
        chosen = highest(score.masked_fill(~members, -torch.inf), dominant)
        place = torch.arange(x.shape[1], device=x.device).expand_as(members)
        leader = torch.where(chosen, place, -1)
        if bool(merging.any()):
            rest = self._cluster_leaders(x, members & ~chosen, merging)
            leader = torch.where(chosen, leader, rest)
        return leader
