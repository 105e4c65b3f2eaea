"""SparseVLM's recycling: the best of what is pruned goes on as the means of a few clusters."""

from __future__ import annotations

import torch
from torch import Tensor

from ...values.selection import Flow, Selection
from .density import density_peaks

_PER_CLUSTER = 10  # recycled tokens, as published


def recycled(x: Tensor, scores: Tensor, keep: int, share: float) -> Selection:
    """Keep the best tokens and, in the slots that `clusters_of` gives, clusters of the next best.

    ``int(share * dropped) + 1`` of the tokens that are not kept cluster around their density peaks;
    a cluster's slot is their mean, and holds the peak's place.

    Parameters
    ----------
    x : Tensor, shape (N, C)
        What is compared.
    scores : Tensor, shape (N,)
    keep : int
        Slots, clusters included, ``1 <= keep < N``.
    share : float
        Of the dropped tokens; 0 recycles none.
    """
    order = scores.argsort(descending=True, stable=True)
    clusters = clusters_of(len(x), keep, share)
    best = keep - clusters
    if not clusters:
        return Selection(order[:keep])
    members = order[best : best + _recycled(len(x) - best, share)]
    there = x[members].float()
    peaks = density_peaks(there[None], clusters, neighbours=clusters)[0]
    cluster = torch.cdist(there, there[peaks]).argmin(dim=1)
    cluster[peaks] = torch.arange(clusters, device=x.device)
    size = torch.bincount(cluster, minlength=clusters)
    weight = torch.cat([size.new_ones(best), 1.0 / size[cluster]])
    slot = torch.cat([torch.arange(best, device=x.device), best + cluster])
    flow = Flow(torch.cat([order[:best], members]), slot, weight)
    return Selection(torch.cat([order[:best], members[peaks]]), flow)


def clusters_of(total: int, keep: int, share: float) -> int:
    """Return how many of ``keep`` slots are clusters.

    As published, ``m`` recycled tokens make ``m // 10 + 1`` clusters beside the kept tokens. Of all
    numbers of kept tokens, the largest is taken with which both fill the slots exactly. Where the
    clusters would be more than half of the slots, which the publication leaves open, they are half.
    """
    if share == 0:
        return 0
    for clusters in range(1, keep // 2 + 1):
        if _recycled(total - keep + clusters, share) // _PER_CLUSTER + 1 <= clusters:
            return clusters
    return keep // 2


def _recycled(dropped: int, share: float) -> int:
    return min(dropped, int(share * dropped) + 1)
