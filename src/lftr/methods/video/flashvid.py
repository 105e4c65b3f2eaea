"""FlashVID: attended tokens that differ in each frame; the others merged in time, then in space."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from ...options.checks import Range
from ...values.selection import Flow, Selection
from ...values.source import Source
from ...values.tokens import VisualTokens
from ..base import Evidence
from ..operations.apportion import CEILED, apportion
from ..operations.density import peak_clusters
from ..operations.directions import Directions
from ..operations.flows import mean_flow
from ..operations.scaling import unit
from ..operations.segments import unlike_cuts
from ..operations.signals import SALIENCY, saliency
from ..operations.similarity import BLOCK, Similarity
from .base import ClipMethod

_NEIGHBOURS = 7  # at most, of the density, as published


@dataclass(frozen=True)
class FlashVID(ClipMethod, name="flashvid"):
    """Keep attended tokens unlike each other; merge the others into earlier frames, then in space.

    Every frame keeps ``salient`` of its share: one after the other the token with the highest
    product of its attention and its distance, one minus cosine, from those kept. Each other token
    joins the token of the frame before, in the same segment, that is most similar to it, if their
    cosine is above ``same``; chains of them become one token, their mean. What is left of a segment
    is clustered in each frame around density peaks, and a cluster becomes the mean of its tokens.
    Every frame gets clusters in proportion to its tokens.

    Parameters
    ----------
    salient : float
        Share in [0, 1] of the slots for attended tokens.
    same : float
        Cosine, in [-1, 1], above which a token is merged into the frame before. Where this would
        leave fewer tokens than slots, only the most similar ones are merged.
    segments : int
        Smallest number of segments.
    threshold : float
        Cosine of the means of adjacent frames, below which a new segment always begins.

    Notes
    -----
    Evidence: attention. In the original, the vision side keeps 1.25 times the budget and the
    language model prunes again: ``["flashvid", FastV(layer=20, keep=0.3)]``.
    Differs from the original: the count is exact (there each frame's counts are rounded up, twice).
    A token merged along a chain is the mean of all its tokens (there their sum is divided by one
    plus the number of tokens that joined it last). In segments of one frame, attended tokens are
    not clustered once more. No random noise is added to densities.
    """

    source = Source(
        "FlashVID",
        arxiv="2602.08024",
        venue="ICLR 2026",
        code="https://github.com/Fanziyang-v/FlashVID",
        function="flashvid_compression",
        note="its part before the language model",
    )
    salient: Annotated[float, Range(0.0, 1.0)] = 0.7
    same: Annotated[float, Range(-1.0, 1.0)] = 0.8
    segments: Annotated[int, Range(1)] = 8
    threshold: Annotated[float, Range(-1.0, 1.0)] = 0.9

    @property
    def evidence(self) -> Evidence:
        return (SALIENCY,)

    def clip(self, tokens: VisualTokens, keep: int) -> Selection:
        frames, height, width = tokens.blocks[0]
        attention, notes = saliency(tokens.as_batch())
        x = tokens.features.reshape(frames, height * width, -1).float()
        near, size = unit(x), x.shape[1]
        first = math.ceil(keep // frames * self.salient)
        kept = apart(near, attention.view(frames, size), first)
        segments = unlike_cuts(x.mean(dim=1), self.segments, self.threshold)
        lengths = torch.tensor([[end - start for start, end in segments]])
        slots = apportion(keep - first * frames, lengths, lengths * (size - first))[0].tolist()
        root = torch.arange(frames * size, device=x.device).view(frames, size)
        place = root.clone()
        counts = torch.zeros(frames, dtype=torch.int64)
        for (start, end), number in zip(segments, slots, strict=True):
            if number:
                self._merge_in_time(near[start:end], kept[start:end], number, root[start:end])
                left = ((root == place) & ~kept)[start:end].sum(dim=1)[None].cpu()
                counts[start:end] = apportion(number, left, left, CEILED)[0]
        counts = counts.to(x.device)
        trees = root.flatten().bincount(minlength=root.numel())
        means = mean_flow(root.flatten()[None], root.numel())
        merged = means.combine(x.flatten(0, 1)[None], root.numel()).view_as(x)
        left = (root == place) & ~kept
        leader = peak_clusters(merged, counts.clamp(1, _NEIGHBOURS), left, counts) + place[:, :1]
        leader = leader.masked_fill(~left | (counts == 0).unsqueeze(1), -1)
        peaks = leader == place
        leader = torch.where(kept, place, leader).flatten()
        index = (kept | peaks).flatten().nonzero().squeeze(1)
        return Selection(index, _flow(root.flatten(), leader, trees, index), notes)

    def _merge_in_time(self, near: Tensor, kept: Tensor, number: int, root: Tensor) -> None:
        """Write into ``root`` ``(T, N)`` of a segment what each token is merged into.

        Parameters
        ----------
        near : Tensor, shape (T, N, C)
            Tokens of length one.
        kept : Tensor of bool, shape (T, N)
            Tokens that are kept alone: they are not merged, and nothing is merged into them.
        number : int
            Tokens that have to be left besides these.
        """
        best = torch.full(kept.shape, -1.0, device=near.device)
        joined = torch.zeros_like(root)
        for t in range(1, len(near)):
            cosine = (near[t] @ near[t - 1].T).masked_fill(kept[t - 1], -1.0)
            best[t], joined[t] = cosine.max(dim=1)
        best.masked_fill_(kept, -1.0)
        most = kept.numel() - int(kept.sum()) - number
        merges = best > self.same
        if int(merges.sum()) > most:
            bound = best.flatten().topk(most).values[-1] if most else best.new_tensor(torch.inf)
            merges = best > bound.clamp_min(-1.0 + 1e-6)
        for t in range(1, len(near)):
            root[t] = torch.where(merges[t], root[t - 1][joined[t]], root[t])


def apart(near: Tensor, attention: Tensor, count: int) -> Tensor:
    """Return which ``count`` tokens of each frame are attended and far apart, ``(T, N)``.

    Starts from the highest product of attention and distance to the nearest other token.

    Parameters
    ----------
    near : Tensor, shape (T, N, C)
        Tokens of length one.
    attention : Tensor, shape (T, N)
    """
    kept = torch.zeros_like(attention, dtype=torch.bool)
    if not count:
        return kept
    # all rows are read once, so they are held where they are few
    similarity = Similarity(Directions.of(near), near.shape[1], diagonal=-torch.inf)
    blocks = torch.arange(near.shape[1], device=near.device).expand_as(kept).split(BLOCK, dim=1)
    closest = torch.cat([similarity.rows(block).amax(dim=2) for block in blocks], dim=1)
    for step in range(count):
        value = (attention * (1.0 - closest)).masked_fill(kept, -torch.inf)
        pick = value.argmax(dim=1)
        kept.scatter_(1, pick.unsqueeze(1), True)
        row = similarity.row(pick, value)
        closest = torch.maximum(closest, row) if step else row
    return kept


def _flow(root: Tensor, leader: Tensor, trees: Tensor, index: Tensor) -> Flow:
    """Return the flow of tokens into slots: a slot is the mean of merged tokens, each a mean too.

    Parameters
    ----------
    root : Tensor of int64, shape (N,)
        The token that each token is merged into in time.
    leader : Tensor of int64, shape (N,)
        The kept token that a root joins in space; -1 where it is dropped, or is no root.
    trees : Tensor of int64, shape (N,)
        Number of tokens merged into each root.
    index : Tensor of int64, shape (K,)
        The kept tokens, ascending.
    """
    clusters = leader[leader >= 0].bincount(minlength=len(root))
    whole = leader[root]
    source = (whole >= 0).nonzero().squeeze(1)
    slot = torch.searchsorted(index, whole[source])
    weight = 1.0 / (trees[root[source]] * clusters[whole[source]]).float()
    return Flow(source, slot, weight)
