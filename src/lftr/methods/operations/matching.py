"""Bipartite soft matching (ToMe): merge similar pairs of a token at an even and an odd place."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from ...values.selection import Flow, Selection
from .flows import groups_of, nearest_to, weighted_flow
from .scaling import unit


def halvings(total: int, keep: int, spare: int = 0, first: Sequence[int] = ()) -> Iterator[int]:
    """Yield how many tokens each fold removes until ``keep`` of ``total`` are left.

    A fold removes half of the tokens at most; ``spare`` tokens are not merged into others.
    ``first`` sets how many the first folds remove, as far as this allows.
    """
    wishes = iter(first)
    while total > keep:
        most = min(max((total - spare) // 2, 1), total - keep)
        step = min(next(wishes, most), most)
        yield step
        total -= step


def soft_matching(
    metric: Tensor,
    folds: Iterable[int],
    *,
    by_size: bool = True,
    size: Tensor | None = None,
    class_token: bool = False,
    penalty: Tensor | None = None,
    scrambled: bool = False,
) -> Selection:
    """Merge the most similar pairs of a token at an even and an odd place, in several folds.

    Tokens at even places are sources and those at odd places destinations; places are numbered anew
    in each fold. Every source has one nearest destination by cosine, and the sources most similar
    to theirs merge into them. The anchor of a slot is its destination.

    Parameters
    ----------
    metric : Tensor, shape (B, N, E)
        What is compared. It is merged in the same way as the tokens.
    folds : iterable of int
        Tokens that each fold removes, see `halvings`.
    by_size : bool
        Whether a slot is the mean of all its tokens; otherwise the plain mean of those of a fold.
    size : Tensor, shape (B, N), optional
        Weight of each token in a mean; 1 by default.
    class_token : bool
        Whether the first token is a class token, which is not merged into another.
    penalty : Tensor, shape (B, N), optional
        Subtracted from the similarity of a source; averaged when tokens merge.
    scrambled : bool
        Whether the next fold numbers the slots as unmerged ones by similarity, then destinations.
    """
    batch, total, _ = metric.shape
    index = torch.arange(total, device=metric.device).expand(batch, -1)
    source = slot = index
    weight = torch.ones(batch, total, device=metric.device)
    size = weight if size is None else size
    metric = metric.float()
    for remove in folds:
        index_next, slot_next = _fold(metric, remove, class_token, penalty, scrambled)
        count = metric.shape[1] - remove
        flow = weighted_flow(slot_next, size, count)
        metric = flow.combine(metric, count)
        penalty = None if penalty is None else flow.combine(penalty, count)
        if by_size:
            size = size.new_zeros(batch, count).scatter_add_(1, slot_next, size)
        else:
            size = size[:, :count]
        weight = weight * flow.weight.gather(1, slot)
        slot = slot_next.gather(1, slot)
        index = index.gather(1, index_next)
    return Selection(index, Flow(source, slot, weight))


def _fold(
    metric: Tensor, remove: int, class_token: bool, penalty: Tensor | None, scrambled: bool
) -> tuple[Tensor, Tensor]:
    """Return the positions that stay and the slot of each position."""
    batch, total, _ = metric.shape
    metric = unit(metric)
    to, score = nearest_to(metric[:, ::2], metric[:, 1::2])
    if penalty is not None:
        score = score - penalty[:, ::2]
    if class_token:
        score[:, 0] = -torch.inf
    score = (score * 2**16).round()  # what differs by rounding alone is a tie
    order = score.argsort(dim=1, descending=True, stable=True)
    gone, stays = order[:, :remove], order[:, remove:]
    place = torch.arange(total, device=metric.device).expand(batch, -1)
    leader = place.scatter(1, 2 * gone, 2 * to.gather(1, gone) + 1)
    if not scrambled:
        return groups_of(leader)
    index = torch.cat([2 * stays, place[:, 1::2]], dim=1)
    rank = torch.zeros_like(place).scatter_(1, index, place[:, : total - remove])
    return index, rank.gather(1, leader)
