"""FSR: focus on what is relevant and attended, scan for what is far from it, merge the rest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch

from ...options.checks import Range
from ...values.selection import Selection
from ...values.source import Source
from ...values.tokens import VisualTokens
from ..base import Evidence, Method
from ..operations.flows import mean_flow, nearest, with_anchors
from ..operations.greedy import k_centre
from ..operations.scaling import min_max
from ..operations.signals import (
    ENCODER,
    SALIENCY,
    TEXT,
    TextSign,
    encoder_features,
    saliency,
    text_relevance,
)


@dataclass(frozen=True)
class FSR(Method, name="fsr"):
    """Keep relevant and attended tokens, then those farthest from them; merge the others.

    Focus: the tokens with the highest sum of relevance to the text and attention. Scan: one after
    the other, the token that is farthest, by the cosine of encoder features, from all that are kept
    (k-centre). Refine: every token that is dropped is averaged into the nearest token of the scan;
    tokens of the focus are left as they are.

    Parameters
    ----------
    focus : float
        Share in [0, 1] of the tokens that the focus chooses, at least one token.
    text_weight : float
        Weight in [0, 1] of the relevance to the text; the attention has the rest.
    text_sign : {"published", "positive", "negative"}
        Whether tokens near the text count as relevant or those far from it; as published, those far
        from it in CLIP, and those near it without CLIP.

    Notes
    -----
    Evidence: CLIP's projected tokens and text, without a text tower the prompt's own embeddings;
    CLS attention, or the attention received; encoder features.
    No code was published. Chosen here: half of the tokens for the focus; relevance and attention
    are each scaled to [0, 1] within the item and have the same weight; relevance in CLIP is the
    negated cosine, as in TRIM. Where the focus takes all, nothing is merged.
    """

    source = Source(
        "FSR",
        arxiv="2602.05809",
        note="from descriptions of it; no code was published",
    )
    focus: Annotated[float, Range(0.0, 1.0)] = 0.5
    text_weight: Annotated[float, Range(0.0, 1.0)] = 0.5
    text_sign: TextSign = "published"

    @property
    def evidence(self) -> Evidence:
        return (TEXT, ("visual_projected", "features"), SALIENCY, ENCODER)

    def choose(self, tokens: VisualTokens, keep: int) -> Selection:
        relevance, notes = text_relevance(tokens, self.text_sign)
        attention, more = saliency(tokens)
        x, again = encoder_features(tokens)
        notes = tuple(dict.fromkeys(notes + more + again))
        scores = self.text_weight * min_max(relevance)
        scores = scores + (1.0 - self.text_weight) * min_max(attention)
        count = max(1, int(keep * self.focus))
        focus = scores.argsort(dim=1, descending=True, stable=True)[:, :count]
        if count == keep:
            return Selection(focus, notes=notes)
        scan = k_centre(x, keep - count, focus)
        index = torch.cat([scan, focus], dim=1)
        slot = with_anchors(nearest(x, scan)[0], index)
        return Selection(index, mean_flow(slot, keep), notes)
