"""FlowCut's score of tokens: what passes from each to the CLS token in an attention layer."""

from __future__ import annotations

import torch
from torch import Tensor

from ...values.tokens import VisualTokens
from .signals import SALIENCY, Notes, saliency, stand_in

INFORMATION_FLOW = (SALIENCY, ("values",), ("cls_value_similarity", "attention_received"))


def information_flow(tokens: VisualTokens) -> tuple[Tensor, Notes]:
    """Return the information flow ``(B, N)`` of each token of a stack, float32.

    The CLS token's attention to a token, as a share of that to all, plus the same share of the
    similarity of their values; both times the sum of the absolute values of the token's value
    vector. Without a CLS token the attention that a token receives replaces both.
    """
    attention, notes = saliency(tokens)
    used, similarity = tokens.evidence(*INFORMATION_FLOW[2])
    strength = tokens.evidence("values")[1].float().abs().sum(dim=-1)
    flow = (share(attention) + share(similarity.float())) * strength
    return flow, notes + stand_in(used, INFORMATION_FLOW[2][0])


def share(scores: Tensor) -> Tensor:
    """Return non-negative scores ``(..., N)`` divided by their sum; zeros stay zeros."""
    return scores / scores.sum(dim=-1, keepdim=True).clamp_min(torch.finfo(scores.dtype).tiny)
