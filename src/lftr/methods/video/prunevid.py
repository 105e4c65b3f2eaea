"""PruneVid's stage before the language model: segments, static positions, clusters."""

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
from ..operations.clip_parts import ClipParts
from ..operations.density import peak_clusters
from ..operations.scaling import unit
from ..operations.segments import clustered
from .base import ClipMethod, natural_counts


@dataclass(frozen=True)
class PruneVid(ClipMethod, name="prunevid"):
    """Merge static positions in each segment of similar frames, then cluster what is left.

    Frames are clustered by their mean features, and a new segment begins where the cluster changes.
    A position whose tokens are similar in all frames of a segment is static and becomes one token,
    their mean. The static tokens of each segment, and the other tokens of each frame, are clustered
    around density peaks. A slot is the mean of a cluster.

    Parameters
    ----------
    clusters : float
        Number of frame clusters, as a share in (0, 1] of the number of frames.
    threshold : float
        Mean cosine over all pairs of frames of a segment, above which a position is static.
    share : float
        Share in (0, 1] of its tokens that each segment's static part, and each frame, keeps.
    few : int
        A part of at most this many tokens keeps all of them.
    neighbours : int
        Number of nearest tokens, or frames, from which a density is computed.

    Notes
    -----
    With ``keep="auto"`` the tokens are those of the original program, in another order. Its second
    stage, at layer 10 of the language model, is not included; any method inside the language model
    can be combined with this one.
    Differs from the original: any count is possible, shared in the same proportion. If
    more tokens are to be kept than are left after static positions are merged, the static positions
    that change most are not merged.
    """

    source = Source(
        "PruneVid",
        arxiv="2412.16117",
        venue="ACL 2025",
        code="https://github.com/Visual-AI/PruneVid",
        function="PllavaForConditionalGeneration.merge_frames_dynamic",
        note="its spatial-temporal merging",
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
        counts = apportion(keep, self._original_counts(sizes)[None], sizes)[0].to(x.device)
        held = torch.cat([parts.stills(x), x.float()])
        leader = peak_clusters(held, self.neighbours, members, counts)
        return parts.selection(leader.masked_fill(~members | (counts == 0).unsqueeze(1), -1))

    def auto_count(self, tokens: VisualTokens) -> list[int]:
        return natural_counts(tokens, self._natural)

    def _natural(self, tokens: VisualTokens) -> list[int]:
        clips = [_frames(tokens.item(i)) for i in range(len(tokens.features))]
        parts = [self._parts(x)[0] for x in clips]
        return [int(self._original_counts(part.members.sum(dim=1)).sum()) for part in parts]

    def _original_counts(self, sizes: Tensor) -> Tensor:
        """Return how many tokens parts of the given sizes keep in the original."""
        return torch.where(
            sizes > self.few, (sizes.double() * self.share).long().clamp_min(1), sizes
        )

    def _parts(self, x: Tensor) -> tuple[ClipParts, Tensor]:
        """Return the segments of a clip ``(T, N, C)`` with their static positions, and scores."""
        count = max(1, int(len(x) * self.clusters))
        segments = clustered(x.float().mean(dim=1), count, self.neighbours)
        score = torch.stack([_likeness(x[first:end]) for first, end in segments])
        return ClipParts(segments, score > self.threshold), score


def _frames(tokens: VisualTokens) -> Tensor:
    frames, height, width = tokens.blocks[0]
    return tokens.features.reshape(frames, height * width, -1)


def _likeness(x: Tensor) -> Tensor:
    """Return each position's mean cosine over all pairs of frames ``(T, N, C)``: ``(N,)``.

    Minus infinity for a single frame, where no position is static.
    """
    frames = len(x)
    if frames == 1:
        return torch.full((x.shape[1],), -torch.inf, device=x.device)
    x = unit(x)
    both: Tensor = x.sum(dim=0).square().sum(dim=1) - x.norm(dim=2).square().sum(dim=0)
    return both / (frames * (frames - 1))
