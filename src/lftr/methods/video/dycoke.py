"""DyCoke's first stage: most frames keep only the tokens that differ from an earlier frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch

from ...options.checks import Range
from ...values.selection import Selection
from ...values.source import Source
from ...values.tokens import VisualTokens
from ..operations.apportion import FLOORED, apportion
from ..operations.cells import evenly_spaced
from ..operations.motion import same_position
from .base import ClipMethod, by_frame, natural_counts


@dataclass(frozen=True)
class DyCoke(ClipMethod, name="dycoke"):
    """Keep every fourth frame, and of the others the tokens least similar to an earlier frame.

    Frames come in groups of four. The second and fourth frame of a group are compared with the
    frame before them, the third with the first, always token by token at the same position and by
    cosine. A compared frame keeps its least similar tokens, ``1 - merging_ratio`` of what the first
    frame keeps. If the budget is too small to keep the first frames whole, all frames shrink in
    proportion, and of a first frame evenly spread tokens stay. If it is larger, the compared frames
    keep more.

    Parameters
    ----------
    merging_ratio : float
        Share of its tokens that a compared frame loses, in [0, 1].
    full_groups : bool
        Whether the third frame of the last group is compared too. The original program leaves it
        whole.

    Notes
    -----
    The second stage of the publication, which prunes the cache during decoding, is not included.
    Differs from the original: tokens stay in raster order; a last frame without a partner is kept
    (there it is lost); fewer than five frames are allowed (there they raise); any count can be
    kept. ``keep="auto"`` keeps what the original keeps.
    """

    source = Source(
        "DyCoke",
        arxiv="2411.15024",
        venue="CVPR 2025",
        code="https://github.com/KD-TAO/DyCoke",
        function="dycole_ttm",
        note="its token merging over time",
    )
    merging_ratio: Annotated[float, Range(0.0, 1.0)] = 0.7
    full_groups: bool = False

    def clips(self, tokens: VisualTokens, keep: int) -> Selection:
        frames, height, width = tokens.blocks[0]
        size = height * width
        pairs = self.compared(frames)
        claims = torch.ones(1, frames, dtype=torch.float64)
        claims[0, list(pairs)] = 1.0 - self.merging_ratio
        # at the factor N counts are N and int((1 - merging_ratio) * N), as published
        counts = apportion(keep, claims, torch.tensor([size]), FLOORED)[0].tolist()
        frame = VisualTokens(tokens.features[:1, :size], grid=(1, height, width))
        pairs = {now: before for now, before in pairs.items() if 0 < counts[now] < size}
        like = same_position(by_frame(tokens, tokens.features), list(pairs), list(pairs.values()))
        parts = []
        for now, count in enumerate(counts):
            if now in pairs:
                inside = Selection.top(-like[:, list(pairs).index(now)], count).index
            elif count:
                inside = evenly_spaced(frame, count).expand(len(tokens.features), -1)
            else:
                continue
            parts.append(inside + now * size)
        return Selection(torch.cat(parts, dim=1))

    def auto_count(self, tokens: VisualTokens) -> list[int]:
        return natural_counts(tokens, self._natural)

    def compared(self, frames: int) -> dict[int, int]:
        """Return the frame that each compared frame is compared with."""
        odd = {now: now - 1 for now in range(1, frames, 2)}
        last = frames - 2 if self.full_groups else frames - 4
        return odd | {first + 2: first for first in range(0, last, 4)}

    def _natural(self, tokens: VisualTokens) -> list[int]:
        frames, height, width = tokens.blocks[0]
        size, compared = height * width, len(self.compared(frames))
        kept = (frames - compared) * size + compared * int((1.0 - self.merging_ratio) * size)
        return [kept] * len(tokens.features)
