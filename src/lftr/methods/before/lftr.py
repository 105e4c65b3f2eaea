"""LFTR, the method that this library is named after."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import torch
from torch import Tensor

from ...options.checks import Range
from ...values.errors import MissingEvidenceError
from ...values.selection import Selection
from ...values.source import Source
from ...values.tokens import VisualTokens
from ..base import Evidence, Method
from ..operations.apportion import apportion
from ..operations.cells import candidates, evenly_spaced
from ..operations.directions import Directions
from ..operations.flows import clusters, mean_flow
from ..operations.relevance_greedy import marginal_relevance
from ..operations.scaling import mean_cosine, min_max, unit, z_score
from ..operations.signals import ENCODER, TEXT, Notes, encoder_features, stand_in
from ..operations.similarity import Similarity
from ..operations.temporal import most_changed, nearest_kept, pick_in_frames, run_slots, slot_flow


@dataclass(frozen=True)
class Lftr(Method, name="lftr"):
    """Keep tokens that differ from their frame's mean and each other; merge the rest into them.

    Re-implemented from the published descriptions of Learning-Free Token Reduction (Zhao, Li and
    Li, arXiv 2501.17391). Its spatial stage removes the less significant tokens. Significance is
    the relevance to the content of the token's own frame or to the text prompt, measured by
    similarity and not by an attention map. The paper's equations and its authors' code were not at
    hand. What the descriptions leave open is an option here, and the defaults were chosen by
    measurements on the bundled suites: ``benchmarks/weights.py`` repeats those of ``space``,
    ``candidates``, ``leftovers``, ``rounds`` and ``time_share``, ``benchmarks/lftr_video.py`` those
    of ``first`` and ``still``, and ``benchmarks/lftr_defaults.py`` those of the others. Relevance
    picks the first token and diversity the others, since a ranking by relevance alone drops
    background that the language model needs.

    A video can be reduced in time first (``time_share``). Of all its tokens, those are kept that
    are least similar to the token at the same place in the frame before. The first frame has no
    frame before it and keeps an even share of its tokens; the literal reading keeps all of them
    (``first="whole"``), which at 16x leaves few tokens for the later frames. Every other token is
    merged into the last kept token at its place, which becomes the mean. The spatial stage then
    reduces each frame separately, to a number of tokens in proportion to what is left of it. By
    default the whole reduction is in space, since a slot has the position of one frame, whatever
    its weight, so the model cannot see in which other frames its content is. On the bundled clips
    of eight frames, a quarter in time (``time_share=0.25``) answers worse at 8x and 16x and better
    at 32x and 64x, where space alone leaves a frame three slots or one
    (``benchmarks/weights.py --suite clips``); longer videos with less motion may gain more.

    Each dropped token is merged into the kept token that it is most similar to (``leftovers``), and
    in attention the host counts the result as that many tokens (`lftr.reduce`, ``weights``).
    Without weights, ``space="encoder", candidates=1, leftovers="drop"`` answered better on the
    bundled images down to a 32nd of the tokens, and merging answered better on the bundled clips
    (``benchmarks/weights.py``).

    Parameters
    ----------
    relevance : {"frame", "text", "both"}
        To the content of the frame, to the text, or the sum of both, z-scored.
    space : {"both", "model", "encoder"}
        Which features tokens are compared by: those that the language model receives, those that
        the encoder gave before the projector, or both, which count the same.
    descriptor : {"mean", "cls", "cls-attention"}
        What represents the frame's content: the mean of its patches, the encoder's CLS output, or
        the CLS token's attention (the score is then that attention, for both directions).
    direction : {"far", "near"}
        Whether a token is significant if it differs from the frame's content or if it resembles it.
        The literal reading of relevance, "near", picks background.
    text_sign : {"positive", "negative"}
        Whether tokens similar to the text score higher, or (TRIM, CDPruner) dissimilar ones.
    diversity : float
        Weight in [0, 1] of the dissimilarity to the tokens kept so far; 0 ranks by relevance alone.
    among : {"spread", "relevant"}
        Which tokens are candidates: evenly spread ones, or the most relevant.
    candidates : float
        Number of candidates, in geometric means of N and K: ``candidates * sqrt(N * K)``, at least
        K; ``inf`` is all tokens. A lower number excludes outliers and limits the cost.
    leftovers : {"merge", "drop"}
        Whether dropped tokens are merged into the nearest kept one, which becomes the mean, or are
        removed. For videos this applies to the spatial stage.
    rounds : int
        Rounds of k-means by which the groups of leftovers of an image are improved.
    time_share : float
        Share, in [0, 1], of the reduction of a video by a factor R that is in time:
        ``R ** time_share`` in time and the rest in space.
    first : {"whole", "even"}
        What the reduction in time keeps of a video's first frame: all of it, as far as the budget
        allows, or an even share.
    still : {"merge", "drop"}
        Whether tokens that the reduction in time does not keep are merged or removed.
    """

    source = Source(
        "LFTR", arxiv="2501.17391", note="re-implemented from its published descriptions"
    )
    relevance: Literal["frame", "text", "both"] = "frame"
    space: Literal["both", "model", "encoder"] = "both"
    descriptor: Literal["mean", "cls", "cls-attention"] = "mean"
    direction: Literal["far", "near"] = "far"
    text_sign: Literal["positive", "negative"] = "positive"
    diversity: Annotated[float, Range(0.0, 1.0)] = 1.0
    among: Literal["spread", "relevant"] = "spread"
    candidates: Annotated[float, Range(0.0)] = math.inf
    leftovers: Literal["merge", "drop"] = "merge"
    rounds: Annotated[int, Range(0, 100)] = 0
    time_share: Annotated[float, Range(0.0, 1.0)] = 0.0
    first: Literal["whole", "even"] = "even"
    still: Literal["merge", "drop"] = "merge"

    @property
    def evidence(self) -> Evidence:
        needs: list[tuple[str, ...]] = [ENCODER]
        if self.relevance != "text":
            frame = {"cls": ("frame_features",), "cls-attention": ("cls_attention",)}
            needs += [frame[self.descriptor]] if self.descriptor in frame else []
        if self.relevance != "frame":
            needs += [TEXT, ("visual_projected", "features")]
        return tuple(needs)

    def choose(self, tokens: VisualTokens, keep: int) -> Selection:
        seen, notes = self._compare_features(tokens)
        scores, more = self._scores(tokens, seen)
        notes = notes + more
        if len(tokens.blocks) == 1 and tokens.blocks[0][0] > 1:
            return replace(self._reduce_clips(tokens, seen, scores, keep), notes=notes)
        index = self._candidates(tokens, scores, keep)
        every = index.shape[1] == tokens.count
        near = Similarity(seen if every else seen.take(index), keep, diagonal=math.inf)
        picks = marginal_relevance(near, scores.gather(1, index), keep, self.diversity)
        kept = index.gather(1, picks).sort(dim=1).values
        if self.leftovers == "drop":
            return Selection(kept, notes=notes)
        slot, _ = clusters(seen, kept, self.rounds, cosine=near.held(kept) if every else None)
        return Selection(kept, mean_flow(slot, keep), notes)

    def _compare_features(self, tokens: VisualTokens) -> tuple[Directions, Notes]:
        """Return that by which tokens are compared, and notes."""
        if self.space == "model":
            return Directions.of(tokens.features), ()
        seen, notes = encoder_features(tokens)
        if self.space == "encoder" or seen is tokens.features:
            return Directions.of(seen), notes
        return Directions.of(tokens.features, seen), notes

    def _reduce_clips(
        self, tokens: VisualTokens, seen: Directions, scores: Tensor, keep: int
    ) -> Selection:
        """Reduce a stack of clips, with scores ``(B, N)`` of their tokens, in both ways."""
        frames, height, width = tokens.blocks[0]
        size, total = height * width, tokens.count
        x, length = seen.joined()
        x, scores = x.unflatten(1, (frames, size)), scores.unflatten(1, (frames, size))
        between_stages = max(keep, math.ceil(total * (keep / total) ** self.time_share))
        length = length.view_as(scores)
        first = min(between_stages, size)
        if self.first == "even":
            first = math.ceil(between_stages / frames)
        stays = most_changed(x, length, between_stages, first)
        left = stays.sum(dim=2)
        counts = apportion(keep, left, left)
        frame = VisualTokens(tokens.features[:, :size], grid=(1, height, width))
        kept = pick_in_frames(
            x,
            length,
            scores,
            stays,
            counts,
            frame,
            diversity=self.diversity,
            share=self.candidates,
            relevant=self.among == "relevant",
        )
        index = kept.flatten(1).nonzero()[:, 1].reshape(len(x), keep)
        if self.leftovers == "drop" and (self.still == "drop" or between_stages == total):
            return Selection(index)
        if self.leftovers == "merge":
            slot = nearest_kept(x, length, kept).masked_fill(~stays, -1)
        else:
            slot = torch.where(kept, kept.flatten(1).cumsum(1).view_as(stays) - 1, -1)
        if self.still == "merge":
            slot = run_slots(slot, stays)
        return Selection(index, slot_flow(slot.flatten(1), keep))

    def _candidates(self, tokens: VisualTokens, scores: Tensor, keep: int) -> Tensor:
        """Return the tokens ``(B, P)`` that can be kept, ascending."""
        number = candidates(tokens.count, keep, self.candidates)
        if self.among == "relevant":
            return Selection.top(scores, number).index
        return evenly_spaced(tokens, number).expand(len(scores), -1)

    def _scores(self, tokens: VisualTokens, seen: Directions) -> tuple[Tensor, Notes]:
        """Return the significance ``(B, N)`` of every token on [0, 1], and notes."""
        if self.relevance == "frame":
            return min_max(self._to_frame(tokens, seen)), ()
        text, notes = self._to_text(tokens)
        if self.relevance == "text":
            return min_max(text), notes
        return min_max(z_score(self._to_frame(tokens, seen)) + z_score(text)), notes

    def _to_frame(self, tokens: VisualTokens, seen: Directions) -> Tensor:
        """Return the relevance ``(B, N)`` to the token's own frame, higher for significant."""
        if self.descriptor == "cls-attention":
            return tokens.evidence("cls_attention")[1].float().mean(dim=1)
        sign = 1.0 if self.direction == "near" else -1.0
        if self.descriptor == "cls":
            rows = unit(encoder_features(tokens)[0].float())
            return sign * (rows * _cls_outputs(tokens, rows.shape[-1])).sum(dim=-1)
        return sign * seen.to_mean(tokens.grid[0] if tokens.grid is not None else 1)

    def _to_text(self, tokens: VisualTokens) -> tuple[Tensor, Notes]:
        """Return the relevance ``(B, N)`` to the text, by the sign that is asked for."""
        sign = 1.0 if self.text_sign == "positive" else -1.0
        used, text = tokens.evidence(*TEXT)
        seen = tokens.evidence("visual_projected")[1] if used == TEXT[0] else tokens.features
        return sign * mean_cosine(seen, text), stand_in(used, TEXT[0])


def _cls_outputs(tokens: VisualTokens, width: int) -> Tensor:
    """Return the CLS output that stands for each token's frame or tile, unit rows ``(B, N, D)``.

    Tokens that are packed from several tiles share the tiles' mean, as ``(B, 1, D)``.
    """
    content = tokens.evidence("frame_features")[1]
    if content.shape[-1] != width:
        raise MissingEvidenceError(
            f"descriptor = 'cls' needs frame_features of the encoder features' width {width}; "
            f"this encoder's CLS output has {content.shape[-1]}: use 'mean' or 'cls-attention'"
        )
    if content.shape[1] != sum(frames for frames, _, _ in tokens.blocks):
        return unit(content.float().mean(dim=1, keepdim=True))
    return unit(content)[:, tokens.coordinates[:, 0]]
