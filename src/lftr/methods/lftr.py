"""LFTR, the method that this library is named after."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from ..indexing import take
from ..selection import Selection
from ..tokens import VisualTokens
from .base import Evidence, Method
from .operations.flows import mean_flow, nearest_to, own
from .operations.relevance_greedy import marginal_relevance
from .operations.scaling import mean_cosine, min_max, unit, z_score
from .options import between, one_of


@dataclass(frozen=True)
class Lftr(Method, name="lftr"):
    """Keep what stands out from its frame, or answers the text; merge what is like it.

    Re-implemented from the published descriptions of Learning-Free Token Reduction (Zhao, Li and
    Li, arXiv 2501.17391), spatial stage: tokens less significant are removed, by relevance to the
    content of their own frame or to the text prompt, judged by similarity and not by an attention
    map. The paper's equations and its authors' code were not at hand; what the descriptions leave
    open is an option here, and each default was chosen by measurement (``benchmarks/lftr.py``).
    The spatial stage acts on every frame by itself; the temporal stage is for videos.

    Scores are made in the encoder's space and the decision is applied to the language model's
    tokens.

    Parameters
    ----------
    relevance : {"frame", "text", "both"}
        To the content of the frame, to the text, or the sum of both, z-scored.
    descriptor : {"mean", "cls", "cls-attention"}
        What stands for the frame's content: the mean of its patches, the encoder's CLS output, or
        the CLS token's attention (the score is then that attention).
    direction : {"far", "near"}
        Whether significant means unlike the frame's content (what stands out) or like it. The
        literal reading of relevance, "near", picks background.
    text_sign : {"positive", "negative"}
        Whether tokens near the text count, or (TRIM, CDPruner) those far from it.
    diversity : float
        Weight in [0, 1] of being unlike what is kept already; 0 ranks by relevance alone.
    candidates : float
        Only the ``candidates * K`` most relevant tokens can be kept, at least 1; bounds the cost.
    leftovers : {"merge", "drop"}
        Whether dropped tokens flow into the nearest kept one, which becomes their mean, or go.
    """

    relevance: str = "frame"
    descriptor: str = "mean"
    direction: str = "far"
    text_sign: str = "positive"
    diversity: float = 0.5
    candidates: float = 4.0
    leftovers: str = "merge"

    def __post_init__(self) -> None:
        one_of("relevance", self.relevance, ("frame", "text", "both"))
        one_of("descriptor", self.descriptor, ("mean", "cls", "cls-attention"))
        one_of("direction", self.direction, ("far", "near"))
        one_of("text_sign", self.text_sign, ("positive", "negative"))
        between("diversity", self.diversity, 0.0, 1.0)
        between("candidates", self.candidates, 1.0)
        one_of("leftovers", self.leftovers, ("merge", "drop"))

    @property
    def evidence(self) -> Evidence:
        needs: list[tuple[str, ...]] = [("encoder_features", "features")]
        if self.relevance != "text":
            frame = {"cls": ("frame_features",), "cls-attention": ("cls_attention",)}
            needs += [frame[self.descriptor]] if self.descriptor in frame else []
        if self.relevance != "frame":
            needs += [("text_embeds", "text_token_embeds"), ("visual_projected", "features")]
        return tuple(needs)

    def choose(self, tokens: VisualTokens, keep: int) -> Selection:
        source, features = tokens.evidence("encoder_features", "features")
        z = unit(features)
        scores, notes = self._scores(tokens, z)
        if source == "features":
            notes = (*notes, "features stood in for encoder_features")
        pool = min(tokens.count, max(keep, math.ceil(self.candidates * keep)))
        index = Selection.top(scores, pool).index
        chosen = marginal_relevance(take(z, index, 1), take(scores, index, 1), keep, self.diversity)
        kept = index.gather(1, chosen).sort(dim=1).values
        if self.leftovers == "drop":
            return Selection(kept, notes=notes)
        slot = own(nearest_to(z, take(z, kept, 1))[0], kept)
        return Selection(kept, mean_flow(slot, keep), notes)

    def _scores(self, tokens: VisualTokens, z: Tensor) -> tuple[Tensor, tuple[str, ...]]:
        """Return the significance ``(B, N)`` of every token on [0, 1], and notes."""
        if self.relevance == "frame":
            return min_max(self._to_frame(tokens, z)), ()
        text, notes = self._to_text(tokens)
        if self.relevance == "text":
            return min_max(text), notes
        return min_max(z_score(self._to_frame(tokens, z)) + z_score(text)), notes

    def _to_frame(self, tokens: VisualTokens, z: Tensor) -> Tensor:
        sign = 1.0 if self.direction == "near" else -1.0
        if self.descriptor == "cls-attention":
            return sign * tokens.evidence("cls_attention")[1].float().mean(dim=1)
        batch, total, width = z.shape
        frames = tokens.grid[0] if tokens.grid is not None else 1
        by_frame = z.reshape(batch, frames, total // frames, width)
        if self.descriptor == "cls":
            content = unit(tokens.evidence("frame_features")[1]).unsqueeze(2)
        else:
            content = unit(by_frame.mean(dim=2, keepdim=True))
        return sign * (by_frame * content).sum(dim=-1).reshape(batch, total)

    def _to_text(self, tokens: VisualTokens) -> tuple[Tensor, tuple[str, ...]]:
        sign = 1.0 if self.text_sign == "positive" else -1.0
        if tokens.text_embeds is not None and tokens.visual_projected is not None:
            return sign * mean_cosine(tokens.visual_projected, tokens.text_embeds), ()
        words = tokens.evidence("text_embeds", "text_token_embeds")[1]
        note = "the language model's own embeddings stood in for a CLIP text tower"
        return sign * mean_cosine(tokens.features, words), (note,)
