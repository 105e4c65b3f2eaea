"""The objective: answers as the full model's, and visual tokens related as in it (LLaVA-KD)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import kl_div, normalize


def answer_loss(logits: Tensor, full: Tensor, answered: Tensor) -> Tensor:
    """Return the KL divergence of the answers' tokens, mean over them; nats.

    Parameters
    ----------
    logits, full : Tensor, shape (B, A, V)
        Of the reduced and of the full model.
    answered : Tensor of bool, shape (B, A)
        Which places count.
    """
    reduced = logits[answered].float().log_softmax(dim=-1)
    wanted = full[answered].float().log_softmax(dim=-1)
    return kl_div(reduced, wanted, reduction="batchmean", log_target=True)


def relation_loss(states: Tensor, full: Tensor, gates: Tensor | None = None) -> Tensor:
    """Return how much the cosines among an item's tokens differ from the full model's.

    One minus the cosine of the two matrices of cosines, in [0, 2].

    Parameters
    ----------
    states, full : Tensor, shape (K, C)
        Last hidden states of the slots, in the reduced and in the full model.
    gates : Tensor, shape (K,), optional
        By how much a slot counts; by default all count the same.
    """
    one, other = (normalize(x.float(), dim=-1) for x in (states, full))
    one, other = one @ one.mT, other @ other.mT
    if gates is not None:
        pairs = (gates[:, None] * gates).detach()
        one, other = one * pairs.sqrt(), other * pairs.sqrt()
    return 1.0 - torch.cosine_similarity(one.flatten(), other.flatten(), dim=0)
