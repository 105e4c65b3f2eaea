"""SparseVLM's recycling: the best pruned tokens are kept as the means of a few clusters."""

from __future__ import annotations

import torch
from torch import Tensor

from ...values.selection import Flow, Selection
from .density import density_peaks

_PER_CLUSTER = 10  # recycled tokens, as published


def recycled(x: Tensor, scores: Tensor, keep: int, share: float) -> Selection:
    """Keep the best tokens, and clusters of the next best in as many slots as `clusters_of` says.

    ``int(share * dropped) + 1`` of the other tokens are clustered around their density peaks. A
    cluster's slot is the mean of its tokens, and its anchor the peak.

    Parameters
    ----------
    x : Tensor, shape (N, C)
        Features from which distances are computed.
    scores : Tensor, shape (N,)
    keep : int
        Slots, clusters included, ``1 <= keep < N``.
    share : float
        Share of the dropped tokens that is recycled; 0 recycles none.
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

    As published, ``m`` recycled tokens form ``m // 10 + 1`` clusters, in addition to the kept
    tokens. The number of kept tokens is the largest with which both together fill the slots. If
    more than half of the slots would be clusters, half of them are; the publication does not cover
    this case.
    """
    if share == 0:
        return 0
    for clusters in range(1, keep // 2 + 1):
        if _recycled(total - keep + clusters, share) // _PER_CLUSTER + 1 <= clusters:
            return clusters
    return keep // 2


def _recycled(dropped: int, share: float) -> int:
    return min(dropped, int(share * dropped) + 1)
