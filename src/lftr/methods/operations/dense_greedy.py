"""Greedy picks by gains that are all kept up to date, where the whole map of them is held."""

from __future__ import annotations

import torch
from torch import Tensor


def dense_greedy(values: Tensor, keep: int, weight: Tensor, bonus: Tensor) -> Tensor:
    """Pick what `lazy_greedy` picks, from a map that is held.

    A pick changes the gains only by the tokens whose coverage it raises, fewer with every pick.

    Parameters
    ----------
    values : Tensor, shape (N, P)
        What each candidate gives each token.
    keep : int
        Picks, at most P.
    weight, bonus : Tensor, shape (P,)
        Of each candidate; weights are non-negative.

    Returns
    -------
    Tensor of int64, shape (K,)
        Positions of the picks among the candidates, in order; of equal values the first.
    """
    covered = values.new_zeros(len(values))
    # gains are updated many times, and small at the end: in double precision
    gain = values.clamp_min(0.0).sum(dim=0, dtype=torch.float64)
    bonus = bonus.double()
    picks = []
    for _ in range(keep):
        pick = torch.addcmul(bonus, weight, gain).argmax()
        picks.append(pick)
        bonus[pick] = -torch.inf
        column = values[:, pick]
        risen = (column > covered).nonzero().squeeze(1)
        high, low = column[risen], covered[risen]
        lost = values[risen].clamp_(low.unsqueeze(1), high.unsqueeze(1))
        gain += low.sum(dtype=torch.float64) - lost.sum(dim=0, dtype=torch.float64)
        covered[risen] = high
    return torch.stack(picks)
