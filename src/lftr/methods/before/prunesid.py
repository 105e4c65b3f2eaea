"""PruneSID: group tokens by principal component, and remove near-duplicates in every group."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ...values.indexing import take
from ...values.selection import Selection
from ...values.source import Source
from ...values.tokens import VisualTokens
from ..base import Evidence, Method
from ..operations.scaling import unit
from ..operations.signals import ENCODER, SALIENCY, encoder_features, saliency
from ..operations.turns import turns


@dataclass(frozen=True)
class PruneSID(Method, name="prunesid"):
    """Group tokens by principal component; keep the most attended, unlike ones of each group.

    There are ``keep / 4`` groups. A token is in the group of the principal component of the
    features (their sigmoid) in which its entry is the largest. Within a group, in the order of
    attention, a token is skipped if its cosine with one before it exceeds ``keep / 32`` times the
    mean cosine of all pairs. Each group keeps at least one token, and more in proportion to its
    tokens that were not skipped, up to ``5 * ceil(keep / 64)``.

    Notes
    -----
    Evidence: encoder features; CLS attention, or the attention received.
    Differs from the original: principal components are exact (there found by random projection, so
    that results depend on the seed). ``keep`` counts patches (there also the CLS token). With fewer
    than 4 tokens there is one group (there an error), and components that only rounding makes are
    left out.
    """

    source = Source(
        "PruneSID",
        arxiv="2603.09480",
        venue="ICLR 2026",
        code="https://github.com/ZhengyaoFang/PruneSID",
        function="CLIPVisionTower_PruneSID.forward",
    )

    @property
    def evidence(self) -> Evidence:
        return (ENCODER, SALIENCY)

    def choose(self, tokens: VisualTokens, keep: int) -> Selection:
        features, notes = encoder_features(tokens)
        attention, more = saliency(tokens)
        x, total, groups = unit(features), tokens.count, max(1, keep // 4)
        group = _components(features, groups)
        pairs = x.sum(dim=1).square().sum(dim=1) - x.square().sum(dim=(1, 2))
        threshold = keep / 32 * pairs / (total * (total - 1))
        order = attention.argsort(dim=1, descending=True, stable=True)
        rank = order.argsort(dim=1)
        stays = _suppress(x, group, rank, order, threshold)
        members = torch.zeros(len(x), groups, dtype=torch.int64, device=x.device)
        unlike = members.scatter_add(1, group, stays.long()).cpu()
        members = members.scatter_add(1, group, torch.ones_like(group)).cpu()
        quota = _quotas(members, unlike, keep).to(x.device)
        last = rank + total * ~stays
        kept = turns(-last, group) < quota.gather(1, group)
        return Selection(kept.nonzero()[:, 1].view(len(x), keep), notes=notes + more)


def _components(features: Tensor, count: int) -> Tensor:
    """Return the principal component ``(B, N)`` in which each token's entry is the largest.

    Channels are the samples and tokens the variables, so that a component has an entry for each
    token.
    """
    x = features.float().sigmoid().double()
    x = x - x.mean(dim=2, keepdim=True)
    if x.shape[1] <= x.shape[2]:
        values, vectors = torch.linalg.eigh(x @ x.mT)
    else:
        values, vectors = torch.linalg.eigh(x.mT @ x)
        vectors = x @ vectors / values.clamp_min(1e-300).sqrt().unsqueeze(1)
    vectors = vectors.flip(2)[:, :, :count].abs()
    values = values.flip(1)[:, None, :count]
    component: Tensor = vectors.where(values > 1e-10 * values[:, :, :1], 0.0).argmax(dim=2)
    return component


def _suppress(x: Tensor, group: Tensor, rank: Tensor, order: Tensor, threshold: Tensor) -> Tensor:
    """Return which tokens are not too similar to a token of their group that ranks before.

    Each round takes the first token of every group that is left, and removes what resembles it.

    Parameters
    ----------
    x : Tensor, shape (B, N, C)
        Rows of length one.
    group, rank, order : Tensor of int64, shape (B, N)
        Group and rank of each token, and the token of each rank.
    threshold : Tensor, shape (B,)
        Cosine above which a token is removed.
    """
    batch, total = rank.shape
    left = torch.ones_like(rank, dtype=torch.bool)
    stays = torch.zeros_like(left)
    number = int(group.max()) + 1
    while bool(left.any()):
        first = rank.new_full((batch, number), total)
        first.scatter_reduce_(1, group, rank.masked_fill(~left, total), "amin")
        leader = order.gather(1, first.gather(1, group).clamp_max(total - 1))
        stays |= left & (rank == first.gather(1, group))
        cosine = (x * take(x, leader, 1)).sum(dim=2)
        left &= ~stays & (cosine <= threshold.unsqueeze(1))
    return stays


def _quotas(members: Tensor, unlike: Tensor, keep: int) -> Tensor:
    """Return how many tokens each group keeps ``(B, G)``, ``keep`` in each row.

    Parameters
    ----------
    members, unlike : Tensor of int64, shape (B, G), on the CPU
        Number of tokens of each group, and of those that were not skipped.
    """
    least = members.clamp_max(1)
    most = unlike.clamp_max(5 * math.ceil(keep / 64))
    while bool((short := most.sum(dim=1, keepdim=True) < keep).any()):
        most = (most + short).minimum(members)
    free = (keep - least.sum(dim=1, keepdim=True)).clamp_min(0)
    share = unlike / unlike.sum(dim=1, keepdim=True)
    border = (share.cumsum(dim=1) * free).round().long()
    quota = (least + torch.cat([border[:, :1], border.diff(dim=1)], dim=1)).minimum(most)
    order = unlike.argsort(dim=1, descending=True, stable=True)
    room = (most - quota).gather(1, order)
    before = room.cumsum(dim=1) - room
    filled = (keep - quota.sum(dim=1, keepdim=True) - before).clamp_min(0).minimum(room)
    return quota.scatter_add(1, order, filled)
