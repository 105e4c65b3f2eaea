"""Maximal marginal relevance: pick tokens that are relevant and unlike those picked before."""

from __future__ import annotations

import torch
from torch import Tensor

from .similarity import Similarity


def marginal_relevance(
    similarity: Similarity,
    scores: Tensor,
    keep: int,
    diversity: float,
    among: Tensor | None = None,
) -> Tensor:
    """Pick the highest ``(1 - diversity) * score + diversity * distance to the nearest pick``.

    The first pick has the highest score (Carbonell and Goldstein, SIGIR 1998, with the distance
    ``1 - cos``). At a diversity of 0 this is the top of the scores, at 1 farthest-point sampling.

    Parameters
    ----------
    similarity : Similarity
        Of the tokens, infinite for a token with itself.
    scores : Tensor, shape (B, N)
        On the scale of a cosine distance, say ``[0, 1]``.
    keep : int
        Picks, at most N.
    diversity : float
        In [0, 1].
    among : Tensor of bool, shape (B, N), optional
        The tokens that can be picked; rows with fewer than K of them go on to the others.

    Returns
    -------
    Tensor of int64, shape (B, K)
        The picks in order.
    """
    if among is not None:
        scores = scores.masked_fill(~among, -torch.inf)
    if diversity == 0:
        return scores.argsort(dim=1, descending=True, stable=True)[:, :keep]
    gain = (1.0 - diversity) * scores
    if among is not None:
        gain = gain.masked_fill(~among, -torch.inf)  # also where diversity is all
    value, picks = scores, []
    for step in range(keep):
        pick = value.argmax(dim=1)
        picks.append(pick)
        left = torch.sub(gain, similarity.row(pick, value), alpha=diversity)
        value = torch.minimum(value, left) if step else left
    return torch.stack(picks, dim=1)
