"""SemVID: frames by their relevance and motion; in each one scene, object and motion tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from ...options.checks import Range
from ...values.selection import Selection
from ...values.source import Source
from ...values.tokens import VisualTokens
from ..base import Evidence
from ..operations.apportion import capped_remainders, highest, largest_remainders
from ..operations.directions import Directions
from ..operations.relevance_greedy import marginal_relevance
from ..operations.scaling import lengths, unit
from ..operations.segments import unlike_cuts
from ..operations.similarity import Similarity
from .base import ClipMethod

_NONE = 1e-8  # a sum of weights below this counts as zero, as published


@dataclass(frozen=True)
class SemVID(ClipMethod, name="semvid"):
    """Keep, of frames that the text is about or that move, scene, object and motion tokens.

    Every frame keeps the token nearest to its mean (scene). The other slots are shared among
    segments of similar frames by relevance, and in a segment by relevance and motion. A frame's
    relevance is the mean of the two highest cosines of its mean with text tokens; its motion is how
    far its mean, at length one, moved since the frame before. In a frame, ``objects`` of the slots
    are shared among the text tokens by the best cosine of each with the frame's tokens, and are
    filled by maximal marginal relevance. The rest go to the tokens that change most from frame to
    frame and are most similar to the text.

    Parameters
    ----------
    relevance : float
        Weight in [0, 1] of a frame's relevance; the rest is that of its motion.
    objects : float
        Share in [0, 1] of a frame's slots, without the scene token, for objects.
    diversity : float
        Weight in [0, 1] of the distance to tokens already picked, among objects.
    motion_text : float
        Weight in [0, 1] of the similarity to the text in the choice of motion tokens.
    threshold : float
        Cosine of adjacent frames, below which a new segment begins. The published 0 leaves most
        clips whole.
    longest : int
        Number of text tokens above which their mean is used as one, and motion tokens are chosen
        without it.

    Notes
    -----
    Evidence: the prompt's embeddings in the language model, compared with the features.
    Differs from the original: with fewer tokens than frames, the frames with the largest weights
    keep one each (there every frame keeps at least one).
    """

    source = Source(
        "SemVID",
        arxiv="2603.05663",
        venue="ECCV 2026",
        code="https://github.com/JiaqiLi404/SemVID",
        function="_semantic_prune_video_region",
    )
    relevance: Annotated[float, Range(0.0, 1.0)] = 0.7
    objects: Annotated[float, Range(0.0, 1.0)] = 0.6
    diversity: Annotated[float, Range(0.0, 1.0)] = 0.1
    motion_text: Annotated[float, Range(0.0, 1.0)] = 0.5
    threshold: Annotated[float, Range(-1.0, 1.0)] = 0.0
    longest: Annotated[int, Range(1)] = 50

    @property
    def evidence(self) -> Evidence:
        return (("text_token_embeds",),)

    def clip(self, tokens: VisualTokens, keep: int) -> Selection:
        frames, height, width = tokens.blocks[0]
        x = tokens.features.reshape(frames, height * width, -1).float()
        text = tokens.evidence("text_token_embeds")[1].float()
        short = len(text) <= self.longest
        question = unit(text if short else text.mean(dim=0, keepdim=True))
        means, near = unit(x.mean(dim=1)), unit(x)
        counts = self._counts(means, question, keep, x.shape[1])
        steps = lengths(x.diff(dim=0))
        change = (torch.cat([steps[:1], steps]) + torch.cat([steps, steps[-1:]])) / 2
        if frames == 1:
            change = torch.zeros_like(near[..., 0])
        like = near @ question.T
        scene = (near @ means.unsqueeze(2)).squeeze(2)
        kept = torch.zeros(x.shape[:2], dtype=torch.bool, device=x.device)
        for t in counts.nonzero().squeeze(1).tolist():
            kept[t, scene[t].argmax()] = True
            objects = round((int(counts[t]) - 1) * self.objects)
            self._add_objects(kept[t], near[t], like[t], objects)
            score = change[t].masked_fill(kept[t], 0.0)
            if short and self.motion_text > 0:
                best = like[t].amax(dim=1).clamp_min(0.0).masked_fill(kept[t], 0.0)
                score, best = (one / one.max().clamp_min(1e-6) for one in (score, best))
                score = (1.0 - self.motion_text) * score + self.motion_text * best
            left = counts[t : t + 1].to(x.device) - kept[t].sum()
            kept[t] |= highest(score.masked_fill(kept[t], -torch.inf)[None], left)[0]
        return Selection(kept.flatten().nonzero().squeeze(1))

    def _counts(self, means: Tensor, question: Tensor, keep: int, size: int) -> Tensor:
        """Return how many tokens of each frame are kept, int64 ``(T,)`` on the CPU."""
        near = (means @ question.T).topk(min(2, len(question)), dim=1).values.mean(dim=1).cpu()
        moved = torch.zeros_like(near)
        if len(near) > 1:
            moved[1:] = means.diff(dim=0).norm(dim=1).cpu()
            moved[0] = moved[1]
        weight = self.relevance * near.relu() + (1.0 - self.relevance) * moved
        if keep < len(weight):
            return highest(weight[None], torch.tensor([keep]))[0].long()
        segments = unlike_cuts(means, 1, self.threshold)
        worth = torch.stack([near[first:end].mean() for first, end in segments])
        positive = worth.relu()
        if positive.sum() < _NONE:
            positive = worth - worth.min() + 1e-6
        counts = torch.ones(len(weight), dtype=torch.int64)
        shares = largest_remainders(keep - len(weight), positive)
        for (first, end), share in zip(segments, shares.tolist(), strict=True):
            counts[first:end] += largest_remainders(share, weight[first:end])
        counts.clamp_max_(size)
        slack = size - counts
        return counts + capped_remainders(keep - int(counts.sum()), weight * slack, slack)

    def _add_objects(self, kept: Tensor, near: Tensor, like: Tensor, count: int) -> None:
        """Add ``count`` object tokens of a frame to ``kept`` ``(N,)``, in place.

        Parameters
        ----------
        near : Tensor, shape (N, C)
            Tokens of length one.
        like : Tensor, shape (N, M)
            Their cosines with the text tokens.
        """
        present = like.amax(dim=0).clamp_min(0.0).cpu()
        shares = largest_remainders(count, present)
        directions = Directions((near[None],), (near.new_ones(1, len(near)),))
        similarity = Similarity(directions, len(near), diagonal=torch.inf)  # all words' picks
        for word in present.argsort(descending=True, stable=True).tolist():
            share = int(shares[word])
            if share:
                among = ~kept[None]
                picks = marginal_relevance(
                    similarity,
                    like[None, :, word],
                    share,
                    self.diversity,
                    among,
                )
                kept[picks[0]] = True
