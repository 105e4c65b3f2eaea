"""FastVID: segments of similar frames, the most attended tokens, and the others merged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from ...options.checks import Range
from ...values.selection import Flow, Selection
from ...values.source import Source
from ...values.tokens import VisualTokens
from ..base import Evidence
from ..operations.density import peak_scores
from ..operations.flows import nearest_to
from ..operations.scaling import unit
from ..operations.segments import Segments, unlike_cuts
from ..operations.signals import FRAMES, SALIENCY, frame_descriptors, saliency
from .base import ClipMethod

_NEIGHBOURS = 4  # of the density, as published


@dataclass(frozen=True)
class FastVID(ClipMethod, name="fastvid"):
    """Keep each frame's most attended tokens; merge the others into density peaks of some frames.

    The clip is divided into segments where frames differ. Every frame keeps ``1 - contextual`` of
    its share by attention. The other slots of a segment are on every ``step``-th of its frames,
    counted from its end, at density peaks among the tokens not kept. For each of these frames, all
    tokens of the segment that are not kept are merged into the peak most similar to them.

    Parameters
    ----------
    segments : int
        Smallest number of segments.
    threshold : float
        Cosine of adjacent frames, below which a new segment always begins.
    contextual : float
        Share in [0, 1] of the slots that are merged.
    step : int
        Distance between the frames that hold merged slots.
    own : float
        Smallest weight in [0, 1] of a peak in its slot.

    Notes
    -----
    Evidence: attention (in the original that of the SigLIP head), and the descriptors of frames.
    Differs from the original: the count is exact. The original keeps ``int(N * ratio)`` tokens of a
    frame and loses the remainder when it divides a segment's slots among its frames; here the rest
    of the budget goes to the most attended other tokens. No random noise is added to densities.
    Slots are divided as in the program for LLaVA-OneVision, frame by frame; the one for LLaVA-Video
    rounds ``contextual`` down once for a whole segment.
    """

    source = Source(
        "FastVID",
        arxiv="2503.11187",
        venue="NeurIPS 2025",
        code="https://github.com/LunarShen/FastVID",
        function="Qwen2Model.forward",
    )
    segments: Annotated[int, Range(1)] = 8
    threshold: Annotated[float, Range(-1.0, 1.0)] = 0.9
    contextual: Annotated[float, Range(0.0, 1.0)] = 0.4
    step: Annotated[int, Range(1)] = 4
    own: Annotated[float, Range(0.0, 1.0)] = 0.6

    @property
    def evidence(self) -> Evidence:
        return (SALIENCY, FRAMES)

    def clip(self, tokens: VisualTokens, keep: int) -> Selection:
        frames, height, width = tokens.blocks[0]
        stack = tokens.as_batch()
        descriptors, notes = frame_descriptors(stack)
        attention, more = saliency(stack)
        segments = unlike_cuts(descriptors[0], self.segments, self.threshold)
        x = tokens.features.reshape(frames, height * width, -1)
        score = attention.reshape(frames, -1)
        share = keep // frames
        contextual = int(share * self.contextual)
        ranks = score.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        kept = ranks < share - contextual
        peaks = self._peaks(x, kept, segments, contextual)
        left = keep - int(kept.sum()) - int(peaks.sum())
        rest = score.masked_fill(kept | peaks, -torch.inf).flatten()
        kept.view(-1)[rest.argsort(descending=True, stable=True)[:left]] = True
        index = (kept | peaks).flatten().nonzero().squeeze(1)
        return Selection(index, self._flow(x, kept, peaks, segments, contextual), notes + more)

    def _holders(self, segment: tuple[int, int]) -> list[int]:
        """Return the frames of a segment that hold its merged slots."""
        first, end = segment
        return list(range(end - 1, first - 1, -self.step))

    def _peaks(self, x: Tensor, kept: Tensor, segments: Segments, contextual: int) -> Tensor:
        """Return the peaks ``(T, N)`` among tokens not kept, in the frames that hold slots."""
        holders, numbers = [], []
        free = x.shape[1] - int(kept[0].sum())
        for first, end in segments:
            there = self._holders((first, end))
            holders += there
            numbers += [min(contextual * (end - first) // len(there), free)] * len(there)
        peaks = torch.zeros_like(kept)
        if any(numbers):
            scores = peak_scores(x[holders], _NEIGHBOURS, ~kept[holders])
            ranks = scores.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
            peaks[holders] = ranks < torch.tensor(numbers, device=x.device).unsqueeze(1)
        return peaks

    def _flow(
        self, x: Tensor, kept: Tensor, peaks: Tensor, segments: Segments, contextual: int
    ) -> Flow:
        """Return the flow: kept tokens alone, the others merged into peaks of their segment."""
        size = x.shape[1]
        slots = (kept | peaks).flatten().cumsum(0) - 1
        alone = kept.flatten().nonzero().squeeze(1)
        ones = torch.ones(len(alone), device=x.device)
        sources, targets, weights = [alone], [slots[alone]], [ones]
        for first, end in segments:
            for holder in self._holders((first, end)):
                inside = peaks[holder].nonzero().squeeze(1)
                if len(inside) == 0:
                    continue
                # as published, a frame with no more than its own share merges its own tokens
                lone = len(inside) == contextual
                begin, stop = (holder, holder + 1) if lone else (first, end)
                member = (~kept[begin:stop]).flatten().nonzero().squeeze(1)
                there = unit(x[begin:stop].flatten(0, 1)[member])
                joined, _ = nearest_to(there[None], unit(x[holder, inside])[None])
                number = torch.bincount(joined[0], minlength=len(inside))
                anchor_share = (1.0 / (number + 1)).clamp_min(self.own)
                peak = inside + holder * size
                sources += [peak, member + begin * size]
                targets += [slots[peak], slots[peak][joined[0]]]
                weights += [
                    anchor_share.where(number > 0, 1.0),
                    ((1.0 - anchor_share) / number)[joined[0]],
                ]
        return Flow(torch.cat(sources), torch.cat(targets), torch.cat(weights))
